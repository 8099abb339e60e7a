"""Metrics reach the tracker in order and once, and nothing ever waits for a tracker longer than it was told to."""

import threading
import time

import pytest
from conftest import wait_until

from finetune_llmfoundry.backlog import BATCH, Backlog


class Tracker:
    """Takes what it is sent, or does what `trouble` does."""

    def __init__(self):
        self.batches, self.tries, self.trouble = [], 0, None
        self.said = []

    def send(self, metrics):
        self.tries += 1
        if self.trouble:
            self.trouble()
        self.batches.append(list(metrics))

    def backlog(self, **named):
        found = Backlog(self.send, log=lambda text, flush: self.said.append(text), **{"interval": 60.0, **named})
        found.start()
        return found


@pytest.fixture
def tracker():
    return Tracker()


def fail(error):
    def trouble():
        raise error

    return trouble


def test_a_flush_sends_all_that_was_added_in_order_and_in_batches(tracker):
    backlog = tracker.backlog()
    metrics = list(range(BATCH + 500))
    backlog.add(metrics[:7])
    backlog.add(metrics[7:])
    assert backlog.flush(30.0)
    assert tracker.batches == [metrics[:BATCH], metrics[BATCH:]]
    assert backlog.flush(0.0)


def test_metrics_are_sent_without_a_flush(tracker):
    backlog = tracker.backlog(interval=0.01)
    backlog.add([1, 2])
    wait_until(lambda: tracker.batches == [[1, 2]], what="the metrics")


def test_a_tracker_that_hangs_holds_up_neither_steps_nor_a_flush_beyond_its_time(tracker):
    answers = threading.Event()
    tracker.trouble = lambda: answers.wait(60)
    backlog = tracker.backlog()
    backlog.add([1])
    began = time.monotonic()
    assert not backlog.flush(0.2)
    for step in range(1000):
        backlog.add([step])
    assert time.monotonic() - began < 5.0
    answers.set()
    assert backlog.flush(30.0)
    assert sum(map(len, tracker.batches)) == 1001


def test_what_a_tracker_that_is_away_did_not_take_is_sent_when_it_is_back(tracker):
    tracker.trouble = fail(ConnectionError("away"))
    backlog = tracker.backlog()
    backlog.add([1])
    for tries in (1, 2):
        assert not backlog.flush(0.0)
        wait_until(lambda: tracker.tries == tries, what="the try")
    backlog.add([2])
    tracker.trouble = None
    assert backlog.flush(30.0)
    assert tracker.batches == [[1, 2]]
    assert tracker.said == ["the tracker is away, metrics are kept: ConnectionError"]


def test_what_the_tracker_refuses_is_not_sent_again(tracker):
    tracker.trouble = fail(ValueError("no such metric"))
    backlog = tracker.backlog()
    backlog.add([1])
    assert backlog.flush(30.0)
    tracker.trouble = None
    backlog.add([2])
    assert backlog.flush(30.0)
    assert (tracker.batches, tracker.said) == ([[2]], ["the tracker refused 1 metrics: ValueError"])


def test_so_many_metrics_are_kept_and_no_more(tracker):
    tracker.trouble = fail(ConnectionError("away"))
    backlog = tracker.backlog(limit=3)
    backlog.add([1, 2])
    backlog.add([3, 4])
    backlog.add([5])
    tracker.trouble = None
    assert backlog.flush(30.0)
    assert tracker.batches == [[1, 2, 3]]
    assert tracker.said == ["the tracker is away for so long that metrics are lost: 3 are kept"]
