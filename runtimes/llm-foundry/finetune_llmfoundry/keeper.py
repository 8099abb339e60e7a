"""Follows the complete checkpoints of an attempt in the object store and deletes old ones, in a thread of its own."""

import queue
import threading

from .report import now


class Keeper(threading.Thread):
    def __init__(self, outputs, report, keep, log):
        super().__init__(name="checkpoints", daemon=True)
        self.outputs, self.report, self.keep, self.log = outputs, report, keep, log
        self.inbox = queue.SimpleQueue()
        self.newest = None

    def started_from(self, checkpoint):
        """The checkpoint that the attempt goes on from is its newest until it has saved one."""
        self.newest = checkpoint

    def saved(self, key):
        self.inbox.put((key, now()))

    def finish(self, seconds):
        """Handle what is under way and end."""
        self.inbox.put(None)
        self.join(seconds)

    def run(self):
        while (item := self.inbox.get()) is not None:
            try:
                self.handle(*item)
            except Exception as error:
                self.log(f"checkpoint {item[0]}: {type(error).__name__}: {error}")

    def handle(self, key, at):
        checkpoint = self.outputs.checkpoint(key)
        if checkpoint is None:
            return
        uri = self.outputs.store.uri(key)
        self.newest = checkpoint
        self.report.add_checkpoint({
            "step": checkpoint.step, "epoch": checkpoint.epoch, "time": at, "uri": uri,
            "sizeBytes": checkpoint.size, "kind": "composer",
        })
        self.report.add_event("CHECKPOINT_SAVED", f"the checkpoint of step {checkpoint.step} is complete", at)
        self.report.drop_checkpoints({self.outputs.store.uri(old) for old in self.outputs.prune(self.keep)})
