"""Brings a model's files to the node and applies the tokenizer overrides; writes only below the target folder."""

import json
import shutil
import threading
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from .outcomes import ConfigRefused, DataUnusable
from .plan import CLAIMS
from .store import open_store, split

HUB_FILES = ["*.json", "*.txt", "*.model", "*.jinja", "*.py", "*.tiktoken"]
FINISHED = ".staged"


class Percent:
    """Counts bytes of many threads and tells each whole percent once."""

    def __init__(self, total, tell):
        self.total, self.tell = max(1, total), tell
        self.done, self.told = 0, -1
        self.lock = threading.Lock()

    def __call__(self, count):
        with self.lock:
            self.done += count
            percent = min(100, self.done * 100 // self.total)
            news = percent > self.told
            self.told = max(self.told, percent)
        if news:
            self.tell(percent)


def inside(folder, name):
    """The path of a file below a folder; refuses names that lead out of it."""
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts or "\\" in name:
        raise ConfigRefused(f"the weights hold a file with a dangerous name: {name[:100]!r}")
    return Path(folder) / relative


def small(name):
    """Whether a file at the top of a model's folder is one of its tokenizer and configuration, not of its weights."""
    return "/" not in name and any(fnmatch(name, pattern) for pattern in HUB_FILES) and not name.endswith(".index.json")


def download_folder(uri, folder, tell, keep=lambda name: True):
    """Bring the objects below a place to a folder, those that `keep` wants; refuses a place without any."""
    store, prefix = open_store(uri), split(uri)[1]
    prefix = f"{prefix}/" if prefix else ""
    objects = [(key, size) for key, size in store.list(prefix) if not key.endswith("/") and keep(key.removeprefix(prefix))]
    if not objects:
        raise DataUnusable(f"there is nothing at {uri}")
    percent = Percent(sum(size for _, size in objects), tell)
    for key, _ in objects:
        path = inside(folder, key.removeprefix(prefix))
        path.parent.mkdir(parents=True, exist_ok=True)
        store.download(key, path, percent)


def from_claim(uri, folder, tell):
    """Weights stay where they are: large files become links, small ones copies that can be changed."""
    parts = urlsplit(uri)
    source = inside(Path(CLAIMS) / parts.netloc, parts.path.lstrip("/") or ".")
    files = [path for path in sorted(source.rglob("*")) if path.is_file()] if source.is_dir() else []
    if not files:
        raise DataUnusable(f"there are no weights at {uri}")
    percent = Percent(len(files), tell)
    for path in files:
        target = Path(folder) / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in (".safetensors", ".bin", ".pt"):
            target.symlink_to(path)
        else:
            shutil.copyfile(path, target)
        percent(1)


def from_hub(uri, revision, folder, tell, weights):
    """Pinned to the revision: the engine's own way of loading hub models has none."""
    from huggingface_hub import HfApi, hf_hub_download

    parts = urlsplit(uri)
    repository = f"{parts.netloc}{parts.path}".strip("/")
    info = HfApi().model_info(repository, revision=revision, files_metadata=True, timeout=60)
    files = {sibling.rfilename: sibling.size or 0 for sibling in info.siblings}
    wanted = [name for name in files if small(name)]
    if weights:
        top = [name for name in files if "/" not in name]
        heavy = [name for name in top if fnmatch(name, "*.safetensors")] or [name for name in top if fnmatch(name, "*.bin")]
        if not heavy:
            raise DataUnusable(f"{uri} holds neither .safetensors nor .bin files")
        wanted += [name for name in top if name.endswith(".index.json")] + heavy
    percent = Percent(sum(files[name] for name in wanted), tell)
    for name in wanted:
        inside(folder, name)
        hf_hub_download(repository, name, revision=info.sha, local_dir=str(folder))
        percent(files[name])


def fetch(uri, revision, folder, tell, weights=True):
    """Bring a model's files from wherever they are, or without `weights` only the small ones."""
    scheme = urlsplit(uri).scheme
    if scheme == "pvc":
        from_claim(uri, folder, tell)
    elif scheme == "hf":
        from_hub(uri, revision, folder, tell, weights)
    else:
        download_folder(uri, folder, tell, (lambda name: True) if weights else small)


def override_tokenizer(folder, chat_template, pad_token):
    folder = Path(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text()) if path.exists() else {}
    if chat_template is not None:
        config["chat_template"] = chat_template
        # These would win over the configuration.
        for name in ("chat_template.jinja", "chat_template.json"):
            (folder / name).unlink(missing_ok=True)
    if pad_token is not None:
        check_known(folder, pad_token)
        config["pad_token"] = pad_token
        special = folder / "special_tokens_map.json"
        if special.exists():
            special.write_text(json.dumps({**json.loads(special.read_text()), "pad_token": pad_token}, indent=2))
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False))


def check_known(folder, token):
    """A token that the vocabulary lacks would get an id beyond the embedding."""
    path = folder / "tokenizer.json"
    if not path.exists():
        return
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer.get("model", {}).get("vocab", {})
    added = {entry.get("content") for entry in tokenizer.get("added_tokens", [])}
    names = {entry[0] for entry in vocabulary} if isinstance(vocabulary, list) else vocabulary
    if token not in names and token not in added:
        raise ConfigRefused(f"the pad token {token!r} is not in the model's vocabulary: name one that is")


def stage(model, tell):
    """Bring the weights of a plan's model to `model.local`. Returns at once when they are there already."""
    target = Path(model.local)
    if model.weights is None or (target / FINISHED).exists():
        return
    if target.exists() and any(target.iterdir()):
        shutil.rmtree(target)
    target.mkdir(parents=True, exist_ok=True)
    fetch(model.weights, model.revision, target, tell)
    if not (target / "config.json").exists():
        raise DataUnusable(f"{model.weights} has no config.json: it must be a Hugging Face model folder")
    if model.chat_template is not None or model.pad_token is not None:
        override_tokenizer(target, model.chat_template, model.pad_token)
    (target / FINISHED).touch()
