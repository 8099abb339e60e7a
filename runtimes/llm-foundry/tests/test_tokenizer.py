"""A tokenizer without `tokenizer.json` gets one that splits text as the old one does."""

import json
import os
import subprocess

import corpus
import pytest
from conftest import RUNTIME

TEXTS = ["What is the capital of France?", "two  spaces\tand a tab", "Straße, naïve, 東京 🗼", "x = 1\n\n    return x", "</s> in text"]

# Both make a small tokenizer of the old form in the folder and print the ids of each text.
SENTENCEPIECE = """
import io, json, sys, sentencepiece
folder, texts = sys.argv[1], json.loads(sys.argv[2])
model = io.BytesIO()
sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(sys.stdin.read().splitlines()), model_writer=model, vocab_size=400,
    model_type="bpe", byte_fallback=True, character_coverage=0.9995, normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2)
open(f"{folder}/tokenizer.model", "wb").write(model.getvalue())
json.dump({"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "legacy": False},
    open(f"{folder}/tokenizer_config.json", "w"))
"""
MERGES = """
import json, sys, tokenizers
folder, texts = sys.argv[1], json.loads(sys.argv[2])
tokenizer = tokenizers.ByteLevelBPETokenizer()
tokenizer.train_from_iterator(sys.stdin.read().splitlines(), vocab_size=400, special_tokens=["<|endoftext|>"], show_progress=False)
tokenizer.save_model(folder)
json.dump({"tokenizer_class": "GPT2Tokenizer"}, open(f"{folder}/tokenizer_config.json", "w"))
"""
OLD = """
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=False)
print(json.dumps([tokenizer(text)["input_ids"] for text in texts]))
"""
NEW = """
import json, sys
from tokenizers import Tokenizer
tokenizer = Tokenizer.from_file(sys.argv[1])
print(json.dumps([tokenizer.encode(text).ids for text in json.loads(sys.argv[2])]))
"""


@pytest.fixture
def call(engine, tmp_path, s3_environment):
    """Run a program in the engine's environment."""
    environment = {**os.environ, **s3_environment, "PYTHONPATH": str(RUNTIME), "FINETUNE_TERMINATION_LOG": str(tmp_path / "message"),
                   "FINETUNE_RUN_UID": "uid", "HF_HUB_OFFLINE": "1"}

    def run(*arguments, **named):
        return subprocess.run([engine, *arguments], capture_output=True, text=True, env=environment, **named)

    return run


def convert(call, tmp_path, source, target):
    """The exit code and the termination message."""
    plan = tmp_path / "convert.json"
    plan.write_text(json.dumps({"version": 1, "run": {"namespace": "team-a", "name": "my-run", "uid": "uid"}, "clusterId": None, "tables": [],
                                "tokenizer": {"from": source, "revision": None, "to": target}}))
    found = call("-m", "finetune_llmfoundry", "convert", "--plan", str(plan))
    return found.returncode, json.loads((tmp_path / "message").read_text()), found.stderr


@pytest.mark.parametrize("script", [SENTENCEPIECE, MERGES], ids=["sentencepiece", "merges"])
def test_the_new_form_splits_text_as_the_old_one(script, call, bucket, tmp_path):
    old = tmp_path / "old"
    old.mkdir()
    made = call("-c", script + OLD, str(old), json.dumps(TEXTS), input=corpus.text())
    assert made.returncode == 0, made.stderr
    for path in old.iterdir():
        bucket.write(f"models/old/{path.name}", path.read_bytes())
    bucket.write("models/old/model.safetensors", b"weights are not fetched")

    source, target = bucket.uri("models/old"), bucket.uri("models/new")
    code, message, error = convert(call, tmp_path, source, target)
    assert code == 0, error
    assert message == {"version": 1, "stage": "convert", "runUid": "uid", "outcome": "completed", "class": None, "exception": None,
                       "tokenizer": {"to": target, "made": True}}
    assert {key for key, _ in bucket.list("models/new/")} >= {"models/new/tokenizer.json", "models/new/tokenizer_config.json"}
    (tmp_path / "tokenizer.json").write_bytes(bucket.read("models/new/tokenizer.json"))
    found = call("-c", NEW, str(tmp_path / "tokenizer.json"), json.dumps(TEXTS))
    assert json.loads(found.stdout) == json.loads(made.stdout.splitlines()[-1]), found.stderr


def test_a_tokenizer_that_is_there_is_left_alone(call, bucket, tmp_path):
    bucket.write("models/new/tokenizer.json", b"made before")
    code, message, error = convert(call, tmp_path, bucket.uri("models/gone"), bucket.uri("models/new"))
    assert (code, message["tokenizer"]["made"]) == (0, False), error
    assert bucket.list("models/new/") == [("models/new/tokenizer.json", 11)]


def test_what_cannot_be_converted_is_the_users_mistake(call, bucket, tmp_path):
    bucket.write("models/odd/tokenizer_config.json", b'{"tokenizer_class": "LlamaTokenizer"}')
    code, message, _ = convert(call, tmp_path, bucket.uri("models/odd"), bucket.uri("models/new"))
    assert (code, message["class"], message["outcome"]) == (10, "UserError", "failed")
    assert message["exception"].startswith("the tokenizer cannot be converted: ")
    assert bucket.list("models/new/") == []
