"""Weights come to the node whole, with the overrides of their tokenizer."""

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from finetune_llmfoundry import staging
from finetune_llmfoundry.outcomes import ConfigRefused, DataUnusable
from finetune_llmfoundry.plan import Model

FILES = {
    "config.json": b"{}", "model.safetensors": b"w" * 100_000,
    "tokenizer.json": json.dumps({"model": {"vocab": {"<pad>": 0, "a": 1}}, "added_tokens": [{"content": "<x>"}]}).encode(),
    "tokenizer_config.json": b'{"chat_template": "old", "eos_token": "</s>"}',
    "special_tokens_map.json": b'{"eos_token": "</s>"}', "chat_template.jinja": b"other",
}


@pytest.fixture
def weights(bucket):
    for name, data in FILES.items():
        bucket.write(f"models/tiny/{name}", data)
    return f"s3://{bucket.name}/models/tiny"


def model(weights, target, **changes):
    values = {"revision": None, "chat_template": None, "pad_token": None, **changes}
    return Model(weights=weights, local=str(target), **values)


def stage(model):
    told = []
    staging.stage(model, told.append)
    return told


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != staging.FINISHED}


def test_every_file_arrives_and_the_percent_only_grows(weights, tmp_path):
    told = stage(model(weights, tmp_path / "model"))
    assert contents(tmp_path / "model") == FILES
    assert told == sorted(set(told)) and told[-1] == 100


def test_staging_again_does_nothing(weights, tmp_path):
    stage(model(weights, tmp_path / "model"))
    assert stage(model(weights, tmp_path / "model")) == []


def test_what_an_interrupted_staging_left_is_replaced(weights, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/leftover").write_text("x")
    stage(model(weights, tmp_path / "model"))
    assert contents(tmp_path / "model") == FILES


def test_the_chat_template_and_the_pad_token_are_applied(weights, tmp_path):
    stage(model(weights, tmp_path / "model", chat_template="{{ new }}", pad_token="<pad>"))
    found = contents(tmp_path / "model")
    assert json.loads(found["tokenizer_config.json"]) == {"chat_template": "{{ new }}", "eos_token": "</s>", "pad_token": "<pad>"}
    assert json.loads(found["special_tokens_map.json"]) == {"eos_token": "</s>", "pad_token": "<pad>"}
    assert "chat_template.jinja" not in found
    assert found["model.safetensors"] == FILES["model.safetensors"]


def test_a_pad_token_out_of_the_vocabulary_is_refused(weights, tmp_path):
    stage(model(weights, tmp_path / "added", pad_token="<x>"))
    with pytest.raises(ConfigRefused, match="'<nope>' is not in the model's vocabulary"):
        stage(model(weights, tmp_path / "model", pad_token="<nope>"))


def test_missing_weights_are_a_data_error(bucket, tmp_path):
    with pytest.raises(DataUnusable, match="there is nothing at"):
        stage(model(f"s3://{bucket.name}/nothing", tmp_path / "model"))
    bucket.write("odd/readme.txt", b"x")
    with pytest.raises(DataUnusable, match="no config.json"):
        stage(model(f"s3://{bucket.name}/odd", tmp_path / "model"))


@pytest.mark.parametrize("uri", ["https://h/x", "/local", "dbfs:/FileStore/x", "dbfs:/Volumes/catalog/schema", "s3:///x"])
def test_other_places_are_refused(uri, tmp_path):
    with pytest.raises(ConfigRefused, match=re.escape(uri)):
        stage(model(uri, tmp_path / "model"))


def test_a_name_that_leads_out_of_the_folder_is_refused(bucket, tmp_path):
    bucket.write("bad/a/../../../evil", b"x")
    with pytest.raises(ConfigRefused, match="dangerous name"):
        stage(model(f"s3://{bucket.name}/bad", tmp_path / "model"))
    assert not (tmp_path / "evil").exists()


def test_weights_of_a_claim_are_linked_and_their_tokenizer_can_change(tmp_path, monkeypatch):
    source = tmp_path / "claims/weights/llama"
    source.mkdir(parents=True)
    for name, data in FILES.items():
        (source / name).write_bytes(data)
    monkeypatch.setattr(staging, "CLAIMS", tmp_path / "claims")
    stage(model("pvc://weights/llama", tmp_path / "model", chat_template="new"))
    assert (tmp_path / "model/model.safetensors").is_symlink()
    assert json.loads((tmp_path / "model/tokenizer_config.json").read_text())["chat_template"] == "new"
    assert json.loads((source / "tokenizer_config.json").read_text())["chat_template"] == "old"
    with pytest.raises(ConfigRefused, match="dangerous name"):
        stage(model("pvc://weights/../other", tmp_path / "model2"))


def test_weights_of_the_hub_are_pinned_to_the_commit(tmp_path, monkeypatch):
    files = {"config.json": 2, "model.safetensors": 500, "pytorch_model.bin": 500, "tokenizer.json": 2, "onnx/model.onnx": 9, "a.md": 1}
    asked = []

    class Api:
        def model_info(self, repository, **named):
            asked.append((repository, named["revision"]))
            siblings = [SimpleNamespace(rfilename=name, size=size) for name, size in files.items()]
            return SimpleNamespace(sha="abc123", siblings=siblings)

    def fetch(repository, name, revision, local_dir):
        asked.append((repository, name, revision))
        (Path(local_dir) / name).write_bytes(b"{}")

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(HfApi=Api, hf_hub_download=fetch))
    stage(model("hf://org/tiny", tmp_path / "model", revision="v1"))
    assert asked == [("org/tiny", "v1"), *(("org/tiny", name, "abc123") for name in ("config.json", "tokenizer.json", "model.safetensors"))]
    assert sorted(contents(tmp_path / "model")) == ["config.json", "model.safetensors", "tokenizer.json"]
