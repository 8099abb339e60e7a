"""Takes credentials out of text; reads the environment and the mounted secrets."""

import os
import re
from pathlib import Path

SECRETS = Path("/var/run/finetune/secrets")
FILE_LIMIT = 64 * 1024
FILES_LIMIT = 256
SHORTEST = 6
HIDDEN = "[hidden]"

SECRET_VARIABLES = re.compile(r"(SECRET|TOKEN|PASSWORD|API_KEY|ACCESS_KEY|ACCOUNT_KEY)", re.IGNORECASE)
# The values of these name files; the files themselves are read where they are mounted.
NOT_SECRET = re.compile(r"(_FILE$|^FINETUNE_REPORT_|^KUBEFLOW_TRAINER_SERVER_|^TOKENIZERS_PARALLELISM$)")
SHAPES = re.compile(
    r"(?P<scheme>\b[a-z][a-z0-9+.-]*://)[^/\s@'\"]+@"
    r"|(?P<name>\b(?:X-Amz-(?:Signature|Credential|Security-Token)|sig|access_token)=)[^&\s'\"]+"
    r"|(?P<header>\bBearer\s+)[A-Za-z0-9._~+/=-]{8,}"
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bhf_[A-Za-z0-9]{20,}\b|\bdapi[a-f0-9]{32}\b",
    re.IGNORECASE,
)


def values_of_file(text):
    """The whole of a file, each of its lines, and what follows `=` or `:` on a line."""
    yield text.strip()
    for line in text.splitlines():
        yield line.strip()
        for separator in ("=", ":"):
            if separator in line:
                yield line.split(separator, 1)[1].strip().strip("\"',")


def secret_files(folder):
    paths = sorted(path for path in Path(folder).glob("*/*") if path.is_file())
    for path in paths[:FILES_LIMIT]:
        try:
            yield path.read_bytes()[:FILE_LIMIT].decode(errors="replace")
        except OSError:
            continue


class Redactor:
    """Hides every known secret and whatever looks like one."""

    def __init__(self, environment=None, folder=SECRETS):
        environment = os.environ if environment is None else environment
        found = {
            value for name, value in environment.items()
            if SECRET_VARIABLES.search(name) and not NOT_SECRET.search(name)
        }
        for text in secret_files(folder):
            found.update(values_of_file(text))
        ordered = sorted((value for value in found if len(value) >= SHORTEST), key=len, reverse=True)
        self.known = re.compile("|".join(map(re.escape, ordered))) if ordered else None

    def __call__(self, text):
        if self.known:
            text = self.known.sub(HIDDEN, text)
        return SHAPES.sub(self.hide, text)

    @staticmethod
    def hide(match):
        if match["scheme"]:
            return f"{match['scheme']}{HIDDEN}@"
        return f"{match['name'] or match['header'] or ''}{HIDDEN}"
