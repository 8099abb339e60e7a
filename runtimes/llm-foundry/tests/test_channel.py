"""The channel between a training process and its supervisor."""

import time

from finetune_llmfoundry.channel import Channel, pair, receive


def test_packets_arrive_in_order_until_the_worker_is_gone():
    mine, theirs = pair()
    channel = Channel(theirs)
    assert channel.send("progress", progress={"step": 1})
    assert channel.send("finished", wait=True, step=1)
    theirs.close()
    assert list(receive(mine)) == [{"kind": "progress", "progress": {"step": 1}}, {"kind": "finished", "step": 1}]


def test_a_full_channel_drops_progress_and_waits_for_nothing():
    mine, theirs = pair()
    channel = Channel(theirs)
    began = time.monotonic()
    sent = [channel.send("progress", progress={"text": "x" * 10_000}) for _ in range(200)]
    assert time.monotonic() - began < 1.0
    assert sent[0] and not sent[-1]
    mine.close()
    theirs.close()


def test_a_supervisor_that_is_gone_is_no_error():
    mine, theirs = pair()
    mine.close()
    assert Channel(theirs).send("event", wait=True) is False
    assert Channel(None).send("event") is False


def test_garbage_is_skipped():
    mine, theirs = pair()
    theirs.send(b"\xff not json")
    theirs.send(b"[1]")
    theirs.send(b'{"kind": "event"}')
    theirs.close()
    assert list(receive(mine)) == [{"kind": "event"}]
