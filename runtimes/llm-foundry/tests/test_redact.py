"""No credential leaves the process in text."""

import pytest

from finetune_llmfoundry.redact import Redactor


@pytest.fixture
def secrets(tmp_path):
    folder = tmp_path / "secrets/s3"
    folder.mkdir(parents=True)
    (folder / "credentials").write_text("[default]\naws_access_key_id = mykeyid1\naws_secret_access_key = from/a+file\n")
    return tmp_path / "secrets"


def test_values_of_variables_and_files_are_hidden(secrets):
    redact = Redactor({"AWS_SECRET_ACCESS_KEY": "s3cr3t-value", "HF_TOKEN": "tokentoken"}, secrets)
    text = "signing with s3cr3t-value and from/a+file as mykeyid1 (tokentoken)"
    assert redact(text) == "signing with [hidden] and [hidden] as [hidden] ([hidden])"


@pytest.mark.parametrize(("text", "expected"), [
    ("GET https://user:pass@host/x", "GET https://[hidden]@host/x"),
    ("?X-Amz-Signature=abc123&x=1", "?X-Amz-Signature=[hidden]&x=1"),
    ("Authorization: Bearer abcdefghijkl", "Authorization: Bearer [hidden]"),
    ("key AKIAIOSFODNN7EXAMPLE used", "key [hidden] used"),
    ("hf_abcdefghijklmnopqrstuv", "[hidden]"),
])
def test_shapes_of_credentials_are_hidden(tmp_path, text, expected):
    assert Redactor({}, tmp_path)(text) == expected


def test_ordinary_text_stays(tmp_path):
    redact = Redactor({"TOKENIZERS_PARALLELISM": "false", "FINETUNE_REPORT_TOKEN": "/var/run/token", "HF_TOKEN": "ab"}, tmp_path)
    text = "tokens/s 300 false /var/run/token ab s3://bucket/key"
    assert redact(text) == text
