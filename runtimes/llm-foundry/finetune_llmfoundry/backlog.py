"""Metrics on their way to the tracker: sent in batches from a thread of its own, kept while the tracker is away."""

import threading
from collections import deque
from itertools import islice

from .outcomes import CREDENTIAL, INFRASTRUCTURE, exit_code

INTERVAL = 10.0
# What the tracker takes at once.
BATCH = 1000
# Metrics that are kept at most, some 50 MiB.
LIMIT = 100_000


class Backlog(threading.Thread):
    """`send` gets a list and may take its time or raise; neither `add` nor a `flush` of 0 seconds ever waits for it."""

    def __init__(self, send, interval=INTERVAL, limit=LIMIT, log=print):
        super().__init__(name="metrics", daemon=True)
        self.send, self.interval, self.limit, self.log = send, interval, limit, log
        self.condition = threading.Condition()
        self.pending = deque()
        self.added = self.settled = 0
        self.hurry = self.away = self.full = False

    def add(self, metrics):
        with self.condition:
            room = self.limit - len(self.pending)
            self.pending.extend(metrics[:room])
            self.added += min(room, len(metrics))
            overflows = len(metrics) > room and not self.full
            self.full = len(metrics) > room
        if overflows:
            self.log(f"the tracker is away for so long that metrics are lost: {self.limit} are kept", flush=True)

    def flush(self, seconds):
        """Whether all that was added before this call is sent, or refused for good, within so many seconds."""
        with self.condition:
            wanted = self.added
            self.hurry = True
            self.condition.notify_all()
            return self.condition.wait_for(lambda: self.settled >= wanted, seconds)

    def run(self):
        while True:
            with self.condition:
                self.condition.wait_for(lambda: self.hurry, self.interval)
                self.hurry = False
            while self.send_batch():
                pass

    def send_batch(self):
        """Send the oldest; false when there are none or the tracker is away."""
        with self.condition:
            batch = list(islice(self.pending, BATCH))
        if not batch:
            return False
        try:
            self.send(batch)
            self.away = False
        except Exception as error:
            away = exit_code(error) in (INFRASTRUCTURE, CREDENTIAL)
            if away and not self.away:
                self.log(f"the tracker is away, metrics are kept: {type(error).__name__}", flush=True)
            self.away = away
            if away:
                return False
            self.log(f"the tracker refused {len(batch)} metrics: {type(error).__name__}", flush=True)
        with self.condition:
            for _ in batch:
                self.pending.popleft()
            self.settled += len(batch)
            self.condition.notify_all()
        return True
