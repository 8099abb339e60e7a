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
        self.told = set()
        # Those of earlier attempts, and those that the engine made a link to.
        self.settled = set()

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
        try:
            self.settled = self.outputs.present()
        except Exception as error:
            self.log(f"checkpoints: {type(error).__name__}: {error}")
        while (item := self.inbox.get()) is not None:
            try:
                self.handle(*item)
            except Exception as error:
                self.log(f"checkpoint {item[0]}: {type(error).__name__}: {error}")
        # The engine has ended and looks for nothing any more.
        try:
            self.settled = self.outputs.present()
            self.prune(now())
        except Exception as error:
            self.log(f"checkpoints: {type(error).__name__}: {error}")

    def handle(self, key, at):
        checkpoint = self.outputs.checkpoint(key)
        if checkpoint is None:
            return
        self.newest = checkpoint
        self.tell(checkpoint, at)
        self.report.add_event("CHECKPOINT_SAVED", f"the checkpoint of step {checkpoint.step} is complete", at)
        self.settled.add(key)
        self.prune(at)

    def prune(self, at):
        kept, deleted = self.outputs.prune(self.keep, self.settled)
        self.report.drop_checkpoints({self.outputs.store.uri(old) for old in deleted})
        # The engine may leave out the link to one when the next is saved soon after. It counts among those kept, so it is told too.
        for other in (self.outputs.checkpoint(key) for key in kept if key not in self.told):
            if other is not None:
                self.tell(other, at)

    def tell(self, checkpoint, at):
        self.told.add(checkpoint.key)
        self.report.add_checkpoint({
            "step": checkpoint.step, "epoch": checkpoint.epoch, "time": at, "uri": self.outputs.store.uri(checkpoint.key),
            "sizeBytes": checkpoint.size, "kind": "composer",
        })
