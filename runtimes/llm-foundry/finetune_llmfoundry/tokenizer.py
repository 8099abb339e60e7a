"""Makes the `tokenizer.json` of a model that has none, by transformers' own conversion: what preflight and the engine then both read."""

import os
import tempfile
from pathlib import Path

from . import staging
from .outcomes import RunError
from .store import open_store, split

NAME = "tokenizer.json"
# `tokenizer.json` comes last: where it is, the rest is.
FILES = ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", NAME)


def convert(folder):
    """The folder with the converted files, from a folder with those of a model."""
    if (folder / NAME).exists():
        return folder
    # Nothing is looked up.
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True, trust_remote_code=False)
    except (ValueError, OSError, KeyError, TypeError, ImportError) as error:
        raise RunError(f"the tokenizer cannot be converted: {error}") from error
    if not tokenizer.is_fast:
        raise RunError(f"transformers knows no conversion of {type(tokenizer).__name__} to {NAME}: give the model one")
    tokenizer.save_pretrained(folder / "converted")
    return folder / "converted"


def make(source, revision, target):
    """Write the files below `target` unless they are there; returns whether they were made."""
    store, prefix = open_store(target), split(target)[1]
    if store.size(f"{prefix}/{NAME}"):
        return False
    with tempfile.TemporaryDirectory(prefix="tokenizer-") as folder:
        folder = Path(folder)
        staging.fetch(source, revision, folder, lambda percent: None, weights=False)
        converted = convert(folder)
        for name in FILES:
            if (converted / name).exists():
                store.write(f"{prefix}/{name}", (converted / name).read_bytes())
    return True
