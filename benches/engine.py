"""The engine's side of the data benchmark: FOLDER has text/*.txt, chat.jsonl and pairs.jsonl; prints MB a second of processor time."""

import json
import os
import shutil
import sys
import time
from pathlib import Path

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers  # noqa: E402

SOURCE, CONTEXT = Path(sys.argv[1]), int(sys.argv[2])
PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
BUDGET = 90  # seconds of processor time that each measurement may take at most


def make_tokenizer(folder):
    """A byte level BPE of 32,000 tokens, as Llama 3 splits text."""
    tokenizer = Tokenizer(models.BPE())
    splitter = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([splitter, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=32000, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False)
    # Every third file, so that it has words to cut.
    tokenizer.train([str(file) for file in sorted((SOURCE / "text").iterdir())[::3]], trainer)
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def rate(pieces, size, work):
    """MB a second over as many pieces as the budget lets through."""
    done, began = 0, time.process_time()
    for piece in pieces:
        work(piece)
        done += size(piece)
        if time.process_time() - began > BUDGET:
            break
    return done / 1e6 / (time.process_time() - began)


make_tokenizer(SOURCE / "tokenizer")

from llmfoundry.command_utils.data_prep.convert_text_to_mds import download_and_convert  # noqa: E402
from llmfoundry.data.finetuning import tasks  # noqa: E402
from llmfoundry.utils.builders import build_tokenizer  # noqa: E402

tokenizer = build_tokenizer(str(SOURCE / "tokenizer"), {"model_max_length": CONTEXT})


def judge(line):
    row = json.loads(line)
    if tasks._get_example_type(row) == "chat":
        tasks._validate_chat_formatted_example(row)
    else:
        assert isinstance(row["prompt"], str) and isinstance(row["response"], str)


def measure(line):
    example = tasks.tokenize_formatted_example(json.loads(line), tokenizer)
    tasks.is_valid_ift_example(CONTEXT, "none", "last", True, example)


def convert(files):
    out = SOURCE / "mds"
    shutil.rmtree(out, ignore_errors=True)
    download_and_convert(files, str(out), str(SOURCE), str(SOURCE / "tokenizer"), CONTEXT, "</s>", "", False, "zstd", False)


rates = {}
for name in ("chat", "pairs"):
    with open(SOURCE / f"{name}.jsonl", "rb") as rows:
        rates[name] = rate(rows, len, judge)
        rows.seek(0)
        rates[f"{name}Measured"] = rate(rows, len, measure)
files = sorted(str(file) for file in (SOURCE / "text").iterdir())
pieces = [files[at : at + 10] for at in range(0, len(files), 10)]
rates["text"] = rate(pieces, lambda piece: sum(map(os.path.getsize, piece)), convert)
print(json.dumps(rates), file=answers, flush=True)
