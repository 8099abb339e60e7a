"""The termination message fits whatever it is made of."""

import json

import pytest

from finetune_llmfoundry import termination


def test_a_small_message_is_kept_as_it_is():
    message = {"version": 1, "exception": "ValueError: x", "logTail": "a\nb", "metrics": {"loss": 2.5}}
    assert json.loads(termination.encode(message)) == message


@pytest.mark.parametrize("filler", ["x", "\\", "\"", "é", "漢", "\x1b", "\n", "\ufffd"])
def test_a_message_has_at_most_3500_bytes(filler):
    message = {
        "version": 1, "outcome": "failed", "exception": filler * 9000, "logTail": filler * 90000,
        "checkpoint": {"uri": "s3://" + "k" * 1000}, "metrics": {f"m{i}": 1.0 for i in range(40)},
    }
    data = termination.encode(message)
    decoded = json.loads(data)
    assert len(data) <= termination.LIMIT
    assert decoded["checkpoint"] == message["checkpoint"]
    assert decoded["outcome"] == "failed"
    assert len(decoded["exception"].encode()) <= 500
    assert len(decoded["logTail"].encode()) <= 1500


def test_the_log_keeps_its_end_and_the_exception_its_beginning():
    message = {"exception": "first" + "x" * 5000, "logTail": "y" * 5000 + "last"}
    decoded = json.loads(termination.encode(message))
    assert decoded["exception"].startswith("first")
    assert decoded["logTail"].endswith("last")


def test_a_message_that_cannot_be_written_fails_nothing(tmp_path, capsys):
    termination.write({"version": 1}, tmp_path / "missing/termination-log")
    assert "could not write the termination message" in capsys.readouterr().out
