"""Speed and remaining time of one attempt, from the times at which its steps ended; pure."""

from collections import deque

WARM_STEPS = 10
WINDOW = 50
# A forward pass is about a third of a step; used for evaluations until the first one was timed.
FORWARD_SHARE = 0.35


class Mean:
    def __init__(self):
        self.total, self.count = 0.0, 0

    def add(self, value):
        self.total += value
        self.count += 1

    def get(self, default):
        return self.total / self.count if self.count else default


class Pace:
    """Steps, evaluations and saves are timed apart: an estimate from all of them as one swings with each evaluation."""

    def __init__(self):
        self.steps = deque(maxlen=WINDOW)
        self.seen = 0
        self.evaluation, self.save = Mean(), Mean()

    def step(self, seconds, tokens):
        self.seen += 1
        # The first step of an attempt compiles, allocates and fills the loader's queue.
        if self.seen > 1:
            self.steps.append((seconds, tokens))

    def seconds_per_step(self):
        return sum(seconds for seconds, _ in self.steps) / len(self.steps) if self.steps else None

    def tokens_per_second(self):
        seconds = sum(seconds for seconds, _ in self.steps)
        return sum(tokens for _, tokens in self.steps) / seconds if seconds > 0 else None

    def remaining(self, steps, evaluations=0, evaluation_batches=0, saves=0):
        """Seconds for so many steps, evaluations and saves and for one export, or None before the attempt is warm."""
        if self.seen < WARM_STEPS or steps is None:
            return None
        step = self.seconds_per_step()
        evaluation = self.evaluation.get(step * FORWARD_SHARE * evaluation_batches)
        save = self.save.get(step)
        return steps * step + evaluations * evaluation + (saves + 1) * save


def occurrences(step, total, interval):
    """How often an event that comes every `interval` steps, and at the end, is still to come after `step` of `total`."""
    if total is None or step >= total or not interval:
        return 0
    later = int(total // interval) - int(step // interval)
    return later + (1 if total % interval else 0)
