"""Reports: cumulative, bounded, verified, and never in the way."""

import json
import time

import pytest
from conftest import make_certificate, wait_until

from finetune_llmfoundry.report import BODY_LIMIT, Endpoint, Poster, Report


@pytest.fixture
def poster(operator):
    endpoint = Endpoint(operator.url, str(operator.ca), str(operator.token), timeout=5.0)
    found = Poster(Report(3), endpoint, interval=0.01, heartbeat=60.0)
    yield found
    found.over.set()
    found.report.touch(urgent=True)


def test_a_report_says_everything_again_with_a_higher_sequence(operator, poster):
    poster.report.wait_for("weights", 40)
    poster.report.add_event("TRAIN_STARTED", "go", "2026-01-01T00:00:00Z")
    poster.post()
    poster.report.set_progress({"step": 1, "loss": float("nan"), "evalMetrics": {"LanguagePerplexity": 2.0}})
    poster.report.add_checkpoint({"uri": "s3://b/ep0-ba1-rank0.pt", "step": 1})
    poster.post()
    start = poster.report.start
    event = {"type": "TRAIN_STARTED", "time": "2026-01-01T00:00:00Z", "message": "go"}
    assert operator.bodies == [
        {"attempt": 3, "start": start, "sequence": 1, "waitingFor": {"what": "weights", "percent": 40},
         "events": [event], "checkpoints": []},
        {"attempt": 3, "start": start, "sequence": 2,
         "progress": {"step": 1, "loss": None, "evalMetrics": {"LanguagePerplexity": 2.0}},
         "events": [event], "checkpoints": [{"uri": "s3://b/ep0-ba1-rank0.pt", "step": 1}]},
    ]
    assert operator.tokens == ["Bearer report-token-of-the-pod"] * 2


def test_reporting_never_waits_for_the_operator(operator, poster):
    operator.hold.clear()
    poster.start()
    began = time.monotonic()
    for step in range(2000):
        poster.report.set_progress({"step": step})
    assert time.monotonic() - began < 1.0
    operator.hold.set()
    wait_until(lambda: operator.steps()[-1:] == [1999], what="the newest step")
    # Only the newest counts: what was overtaken while the operator was silent was not sent.
    assert len(operator.bodies) <= 4


def test_an_event_is_posted_at_once(operator):
    poster = Poster(Report(0), Endpoint(operator.url, str(operator.ca), str(operator.token)), interval=60.0)
    poster.start()
    poster.report.set_progress({"step": 1})
    wait_until(lambda: operator.bodies, what="the first report")
    poster.report.add_event("CHECKPOINT_SAVED", "x")
    wait_until(lambda: operator.events() == ["CHECKPOINT_SAVED"], seconds=5.0, what="the event")
    poster.over.set()
    poster.report.touch(urgent=True)


def test_a_certificate_of_another_ca_is_refused(operator, tmp_path):
    other, _ = make_certificate(tmp_path)
    poster = Poster(Report(0), Endpoint(operator.url, str(other), str(operator.token)))
    assert poster.post() is None
    assert operator.bodies == []
    # The CA file is read again for each report.
    other.write_bytes(operator.ca.read_bytes())
    assert poster.post() == 204


def test_plain_http_is_refused_but_for_this_host():
    with pytest.raises(ValueError, match="https"):
        Endpoint("http://operator.example/report", None, None)
    Endpoint("http://127.0.0.1:1/report", None, None)


@pytest.mark.parametrize("answer", [401, 403])
def test_a_refused_token_is_not_tried_again_before_it_changes(operator, poster, answer):
    operator.answer = answer
    assert poster.post() == answer
    assert poster.post() is None
    assert len(operator.tokens) == 1
    operator.answer = 204
    operator.token.write_text("renewed")
    assert poster.post() == 204
    assert operator.tokens[-1] == "Bearer renewed"


@pytest.mark.parametrize("answer", [409, 410])
def test_nothing_more_is_said_once_the_attempt_is_over(operator, poster, answer):
    operator.answer = answer
    assert poster.post() == answer
    operator.answer = 204
    assert poster.post() is None
    assert poster.finish(1.0) is False
    assert len(operator.tokens) == 1


@pytest.mark.parametrize("answer", [429, 500, 503])
def test_a_busy_operator_gets_the_next_report(operator, poster, answer):
    operator.answer = answer
    assert poster.post() == answer
    operator.answer = 204
    assert poster.post() == 204


def test_an_operator_that_is_gone_fails_nothing(tmp_path, operator):
    poster = Poster(Report(0), Endpoint("https://127.0.0.1:1/x", str(operator.ca), str(operator.token)), log=lambda *a, **k: None)
    assert poster.post() is None
    began = time.monotonic()
    assert poster.finish(0.6) is False
    assert time.monotonic() - began < 3.0


def test_a_body_stays_below_its_limit():
    report = Report(0)
    for number in range(100):
        report.add_event("CHECKPOINT_SAVED", "m" * 5000)
        report.add_checkpoint({"uri": f"s3://{'k' * 9000}/{number}", "step": number})
    report.set_progress({"step": 1, "evalMetrics": {f"metric-{i}": 1.0 for i in range(100)}})
    body = report.body()
    decoded = json.loads(body)
    assert len(body) <= BODY_LIMIT
    assert decoded["checkpoints"][-1]["step"] == 99
    assert len(decoded["progress"]["evalMetrics"]) == 16


def test_the_last_word_is_delivered(operator, poster):
    poster.start()
    poster.report.add_checkpoint({"uri": "s3://b/last", "step": 9})
    assert poster.finish(5.0) is True
    assert operator.bodies[-1]["checkpoints"] == [{"uri": "s3://b/last", "step": 9}]


def test_the_last_word_waits_no_longer_than_told_for_a_post_under_way(operator, poster):
    operator.hold.clear()
    poster.start()
    poster.report.set_progress({"step": 1})
    wait_until(poster.posting.locked, what="the post under way")
    began = time.monotonic()
    assert poster.finish(0.5) is False
    assert time.monotonic() - began < 2.0
