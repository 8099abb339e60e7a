"""Watches a training from inside the engine: progress, divergence, and the stop that all ranks agree on.

A logger destination is also a callback of the engine, so it sees both events and metrics, and it comes before the
callbacks that save. It writes to the channel of the supervisor and does nothing that waits, but to stop.
"""

import math
import time

import torch
from composer.callbacks import CheckpointSaver
from composer.core import Time, TimeUnit
from composer.loggers import LoggerDestination
from composer.utils import dist

from .outcomes import CheckpointUnusable, Diverged, StopRequested
from .pace import Pace, occurrences

LOSS = "loss/train/total"
EVALUATION = "metrics/eval/"
PRINT_SECONDS = 5.0
NORM_INTERVAL = 10


def steps_of(interval, steps_per_epoch, total_steps, tokens_per_step):
    """An interval of the engine in steps, or None when it has none."""
    interval = Time.from_input(interval, TimeUnit.EPOCH)
    value = float(interval.value)
    if value <= 0:
        return None
    if interval.unit == TimeUnit.BATCH:
        return value
    if interval.unit == TimeUnit.EPOCH:
        return value * steps_per_epoch if steps_per_epoch else None
    if interval.unit == TimeUnit.TOKEN:
        return value / tokens_per_step if tokens_per_step else None
    if interval.unit == TimeUnit.DURATION:
        return value * total_steps if total_steps else None
    return None


def gradient_norm(state):
    """The norm of the gradient as the optimizer got it, so after clipping."""
    total = torch.zeros((), device=state.device.tensor_to_device(torch.zeros(1)).device)
    for parameter in state.model.parameters():
        if parameter.grad is not None:
            gradient = parameter.grad.to_local() if hasattr(parameter.grad, "to_local") else parameter.grad
            total += torch.linalg.vector_norm(gradient).float() ** 2
    if state.fsdp_enabled:
        dist.all_reduce(total)
    return math.sqrt(total.item())


class Observer(LoggerDestination):
    def __init__(self, context):
        self.context = context
        self.pace = Pace()
        self.norm = None
        self.printed = 0.0
        self.began = self.ended = self.evaluation_began = None
        self.evaluation_seconds = 0.0

    def state_dict(self):
        """Goes into each checkpoint: an attempt that only exports has no other source of the run's metrics."""
        return {"metrics": dict(self.context.metrics)}

    def load_state_dict(self, state):
        self.context.metrics.update(state.get("metrics", {}))

    def log_metrics(self, metrics, step=None):
        for name, value in metrics.items():
            if name.startswith(EVALUATION):
                self.context.metrics[name.removeprefix(EVALUATION)] = float(value)

    def before_load(self, state, logger):
        self.context.loading = True

    def after_load(self, state, logger):
        self.context.loading = False
        wanted = self.context.resume_step
        if wanted and state.timestamp.batch.value < wanted:
            raise CheckpointUnusable(f"the engine is at step {state.timestamp.batch.value} after loading, not at {wanted}")
        self.say("MODEL_INITIALIZED", f"the model is loaded, at step {state.timestamp.batch.value}")

    def fit_start(self, state, logger):
        self.context.training = True
        self.say("TRAIN_STARTED", f"training starts at step {state.timestamp.batch.value}")

    def fit_end(self, state, logger):
        self.context.training = False
        self.say("TRAIN_FINISHED", f"training ended at step {state.timestamp.batch.value}, uploads go on")

    def before_dataloader(self, state, logger):
        now = time.monotonic()
        if self.ended is not None:
            saver = self.saver(state)
            if saver is not None and saver.last_checkpoint_batch == state.timestamp.batch:
                self.pace.save.add(max(0.0, now - self.ended - self.evaluation_seconds))
            self.ended, self.evaluation_seconds = None, 0.0
        # Asked once more at the end of an epoch, when no batch is left.
        self.began = now

    def eval_before_all(self, state, logger):
        self.evaluation_began = time.monotonic()

    def eval_after_all(self, state, logger):
        if self.evaluation_began is not None:
            seconds = time.monotonic() - self.evaluation_began
            self.pace.evaluation.add(seconds)
            self.evaluation_seconds += seconds

    def batch_end(self, state, logger):
        self.ended = time.monotonic()
        step, tokens = state.timestamp.batch.value, state.timestamp.token.value
        if self.began is not None:
            before = state.previous_timestamp.token.value if state.previous_timestamp else 0
            self.pace.step(self.ended - self.began, tokens - before)
        loss = (state.total_loss_dict or {}).get(LOSS)
        if loss is not None and not math.isfinite(loss):
            raise Diverged(f"the loss is {loss} at step {step}: lower the learning rate, or look at the data of this step")
        if step <= NORM_INTERVAL or step % NORM_INTERVAL == 0:
            self.norm = gradient_norm(state)
        if dist.get_global_rank() == 0:
            self.tell(state, loss)
        if self.agreed_to_stop(state):
            self.stop(state, logger)

    def say(self, kind, message):
        if dist.get_global_rank() == 0:
            print(message, flush=True)
            self.context.channel.send("event", wait=True, type=kind, message=message)

    def saver(self, state):
        return next((callback for callback in state.callbacks if isinstance(callback, CheckpointSaver)), None)

    def tell(self, state, loss):
        progress = self.progress(state, loss)
        self.context.metrics["loss"] = progress["loss"]
        self.context.channel.send("progress", progress=progress)
        now, last = time.monotonic(), state.get_elapsed_duration() or 0.0
        if now - self.printed >= PRINT_SECONDS or last >= 1.0:
            self.printed = now
            speed = progress["tokensPerSecond"]
            print(
                f"step {progress['step']}/{progress['totalSteps'] or '?'} epoch {progress['epoch']} loss {loss} "
                f"lr {progress['learningRate']} tokens/s {round(speed) if speed else '?'}",
                flush=True,
            )

    def progress(self, state, loss):
        at, duration = state.timestamp, state.max_duration
        step, tokens = at.batch.value, at.token.value
        epoch_steps = state.dataloader_len.value if state.dataloader_len is not None else None
        tokens_per_step = tokens / step if step else None
        total_tokens = duration.value if duration.unit == TimeUnit.TOKEN else None
        total = steps_of(duration, epoch_steps, None, None) if total_tokens is None else None
        expected = total if total is not None else (total_tokens / tokens_per_step if tokens_per_step else None)
        evaluations = saves = batches = 0
        if expected:
            measure = (epoch_steps, expected, tokens_per_step)
            saves = occurrences(step, expected, steps_of(self.context.save_interval, *measure))
            if state.evaluators:
                evaluations = occurrences(step, expected, steps_of(self.context.eval_interval, *measure))
                batches = sum(len(e.dataloader.dataloader) for e in state.evaluators if hasattr(e.dataloader.dataloader, "__len__"))
        remaining = self.pace.remaining(max(0.0, expected - step) if expected else None, evaluations, batches, saves)
        groups = state.optimizers[0].param_groups
        return {
            "step": step,
            "totalSteps": math.ceil(total) if total is not None else None,
            "epoch": at.epoch.value,
            "tokens": tokens,
            "totalTokens": total_tokens,
            "loss": loss,
            "learningRate": float(groups[0]["lr"]),
            "gradientNorm": self.norm,
            "tokensPerSecond": self.pace.tokens_per_second(),
            "evalMetrics": {name: value for name, value in self.context.metrics.items() if name != "loss"},
            "estimatedRemainingSeconds": math.ceil(remaining) if remaining is not None else None,
        }

    def agreed_to_stop(self, state):
        asked = self.context.stop.is_set()
        if dist.get_world_size() == 1:
            return asked
        flag = state.device.tensor_to_device(torch.tensor([int(asked)], dtype=torch.uint8))
        dist.all_reduce(flag, reduce_operation="MAX")
        return bool(flag.item())

    def stop(self, state, logger):
        """Save at the end of this batch, wait until the checkpoint and the link to it are uploaded, and leave."""
        step, saver = state.timestamp.batch.value, self.saver(state)
        if state.timestamp >= state.max_duration:
            return
        if saver is None:
            raise StopRequested(f"stopped at step {step}: nothing saves checkpoints", saved=False)
        try:
            saver._save_checkpoint(state, logger)
            saver.fit_end(state, logger)
        except Exception as error:
            raise StopRequested(f"stopped at step {step}: the checkpoint could not be saved", saved=False) from error
        raise StopRequested(f"stopped at step {step}, checkpoint saved", saved=True)
