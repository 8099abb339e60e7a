"""PID 1 of a trainer pod: stages weights, starts the training processes, reports, and turns every end into an exit code.

Imports no engine, so that it starts in a second and survives whatever happens to the processes that do.
"""

import os
import queue
import shutil
import signal
import threading
import time
import traceback
from pathlib import Path

from . import outcomes, plan as plans, staging, termination
from .checkpoints import Outputs
from .keeper import Keeper
from .outcomes import Unavailable, describe, exit_code, failure_class
from .processes import Output, Process, free_port, leave, oom_kills, rank_environment, reap, worker_command
from .redact import Redactor
from .report import Endpoint, Poster, Report, now
from .store import open_store, prepare_environment, split
from .worker import RESUME_STEP

TICK = 0.2
# Of the grace period, what is kept for the last report and the termination message.
RESERVE = 6.0
# How long a process may clean up after it said how it ended, or after another one failed.
CLEAN_UP = 30.0
LAST_POST = 3.0
KEEPER = 60.0


def describe_lines(error):
    """What a log needs: the words of an end that we know, else where it came from."""
    if isinstance(error, outcomes.RunError):
        return [f"{type(error).__name__}: {error}"]
    return "".join(traceback.format_exception(error)).splitlines()


class Stopped(Exception):
    """Told to stop before training began."""


class Task(threading.Thread):
    """A call in a thread that nobody waits for at the end."""

    def __init__(self, function, *arguments):
        super().__init__(daemon=True)
        self.function, self.arguments, self.error = function, arguments, None
        self.start()

    def run(self):
        try:
            self.function(*self.arguments)
        except Exception as error:
            self.error = error

    def result(self):
        self.join()
        if self.error is not None:
            raise self.error


class Supervisor:
    def __init__(self, train_json, command=None):
        self.train_json = Path(train_json).resolve()
        self.command = command or worker_command(self.train_json)
        self.redact = Redactor()
        self.output = Output(self.redact)
        self.inbox = queue.SimpleQueue()
        self.stop_by = None
        # While nothing is trained a stop breaks off whatever is waited for, such as a download.
        self.interruptible = False
        self.plan = self.report = self.poster = self.keeper = self.outputs = None
        self.processes = []
        self.failure = self.finished = self.stopped = None
        self.progress = {}
        self.node_rank = int(os.environ.get("NODE_RANK") or 0)

    # Signals

    def on_stop(self, number, frame):
        if self.stop_by is None:
            grace = self.plan.grace_seconds if self.plan else 30
            self.stop_by = time.monotonic() + max(1.0, grace - RESERVE, grace / 2)
            if self.interruptible:
                self.interruptible = False
                raise Stopped()
        self.inbox.put(("wake", None, None))

    def stopping(self):
        return self.stop_by is not None

    # The course of an attempt

    def run(self):
        """Run the attempt to its end and return the exit code; the termination message is written by then."""
        signal.signal(signal.SIGTERM, self.on_stop)
        signal.signal(signal.SIGINT, self.on_stop)
        signal.signal(signal.SIGCHLD, lambda number, frame: self.inbox.put(("wake", None, None)))
        prepare_environment(os.environ)
        try:
            message = self.attempt()
        except Stopped:
            message = self.message("stopped", outcomes.STOPPED)
        except Exception as error:
            for line in describe_lines(error):
                self.output.write(line)
            message = self.message("failed", exit_code(error), describe(error))
        finally:
            self.kill()
        code = message.pop("code")
        self.last_word()
        termination.write(message)
        self.output.write(f"{message['outcome']}, exit code {code}")
        return code

    def attempt(self):
        self.plan = plans.train_plan(self.train_json)
        config = plans.engine_config(self.plan)
        self.begin_reports()
        self.outputs = Outputs(
            open_store(self.plan.outputs), self.plan.outputs, plans.latest_link(config, self.plan.world_size),
        )
        self.interruptible = True
        if self.stopping():
            raise Stopped()
        self.outputs.check_owner(self.plan.uid)
        marker = self.outputs.marker(self.plan.uid)
        if marker is not None:
            self.interruptible = False
            return self.already_complete(marker)
        self.keeper = Keeper(self.outputs, self.report, self.plan.keep_checkpoints, self.output.write)
        checkpoint = self.outputs.resume_from(self.plan.expected_checkpoint)
        if checkpoint is not None:
            self.output.write(f"going on from {self.outputs.store.uri(checkpoint.key)}")
            self.keeper.started_from(checkpoint)
        if self.node_rank == 0:
            self.keeper.start()
        self.stage_weights()
        self.interruptible = False
        self.start_processes(checkpoint)
        self.watch()
        return self.judge()

    def begin_reports(self):
        self.report = Report(self.plan.attempt)
        url = os.environ.get("FINETUNE_REPORT_URL")
        if url and self.node_rank == 0:
            endpoint = Endpoint(url, os.environ.get("FINETUNE_REPORT_CA"), os.environ.get("FINETUNE_REPORT_TOKEN"))
            self.poster = Poster(self.report, endpoint, log=lambda text, flush: self.output.write(text))
            self.poster.start()

    def stage_weights(self):
        if self.plan.model.weights is None:
            return
        self.report.wait_for("weights", 0)
        began = time.monotonic()
        # In a thread, since a library that waits for a store lets no stop through.
        task = Task(staging.stage, self.plan.model, lambda percent: self.report.wait_for("weights", percent))
        task.result()
        self.output.write(f"weights staged in {time.monotonic() - began:.1f} s")

    def start_processes(self, checkpoint):
        self.report.wait_for("initialisation")
        # The engine writes below its working folder, which must have the same path on every node.
        folder = Path(self.plan.model.local).parent / "work"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        environment = {**os.environ, RESUME_STEP: str(checkpoint.step if checkpoint else 0)}
        # A tracker that is slow or gone must not hold up training for the library's own ten minutes.
        environment.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "4")
        environment.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
        if self.plan.mlflow.get("experimentId"):
            environment["MLFLOW_EXPERIMENT_ID"] = str(self.plan.mlflow["experimentId"])
        if self.plan.mlflow.get("runId"):
            environment["MLFLOW_RUN_ID"] = str(self.plan.mlflow["runId"])
        if self.plan.model.weights is not None:
            environment["HF_HUB_OFFLINE"] = "1"
        self.kills_before = oom_kills()
        port = os.environ.get("MASTER_PORT") or free_port()
        for local_rank in range(self.plan.processes):
            ranked = rank_environment(environment, self.plan, self.node_rank, local_rank, port)
            rank = int(ranked["RANK"])
            self.processes.append(Process(rank, self.command, ranked, folder, self.output, self.inbox))

    # While it runs

    def watch(self):
        """Until every process is gone: pass on a stop, keep what they say, and end those that hang."""
        forwarded, end_by = False, None
        while any(process.status is None for process in self.processes):
            self.take_packets()
            reap(self.processes)
            if self.stopping() and not forwarded:
                forwarded = True
                for process in self.processes:
                    process.signal(signal.SIGTERM)
            alive = [process for process in self.processes if process.status is None]
            ending = self.failure or self.stopped or len(alive) < len(self.processes)
            if ending and end_by is None:
                end_by = time.monotonic() + CLEAN_UP
            deadline = min((at for at in (end_by, self.stop_by) if at is not None), default=None)
            if deadline is not None and time.monotonic() > deadline:
                self.kill()
        self.take_packets(wait=False)

    def take_packets(self, wait=True):
        timeout = TICK if wait else 0.0
        while True:
            try:
                kind, rank, packet = self.inbox.get(timeout=timeout) if timeout else self.inbox.get_nowait()
            except queue.Empty:
                return
            timeout = 0.0
            if packet is not None:
                self.take(kind, rank, packet)

    def take(self, kind, rank, packet):
        if kind == "progress" and isinstance(packet.get("progress"), dict):
            self.progress = packet["progress"]
            self.report.set_progress(self.progress)
        elif kind == "event":
            self.report.add_event(str(packet.get("type")), str(packet.get("message")))
        elif kind == "checkpoint":
            self.keeper.saved(str(packet.get("key")))
        elif kind == "failed" and self.failure is None:
            self.failure = (int(packet.get("code", outcomes.USER)), str(packet.get("exception")))
        elif kind == "stopped" and (self.stopped is None or rank == 0):
            self.stopped = packet
        elif kind == "finished" and rank == 0:
            self.finished = packet

    def kill(self):
        for process in self.processes:
            if process.status is None:
                process.kill_all()
        deadline = time.monotonic() + 10.0
        while any(process.status is None for process in self.processes) and time.monotonic() < deadline:
            reap(self.processes)
            time.sleep(0.02)

    # The end

    def judge(self):
        """The verdict from what the processes said and how they ended."""
        if self.keeper.is_alive():
            left = self.stop_by - time.monotonic() if self.stopping() else KEEPER
            self.keeper.finish(min(KEEPER, max(2.0, left)))
        if self.finished is not None:
            return self.complete()
        if self.stopping() or self.stopped is not None:
            if self.failure is not None and not self.stopping():
                return self.message("failed", *self.failure)
            saved = bool(self.stopped and self.stopped.get("saved"))
            return self.message("stopped", outcomes.STOPPED_SAVED if saved else outcomes.STOPPED)
        if self.failure is not None:
            return self.message("failed", *self.failure)
        broken = [process for process in self.processes if process.status != 0]
        if not broken:
            if self.node_rank > 0:
                return self.message("completed", outcomes.DONE)
            return self.message("failed", outcomes.USER, "the training process ended without a result")
        status = broken[0].status
        if oom_kills() > self.kills_before:
            return self.message(
                "failed", outcomes.HOST_MEMORY, "a training process was killed for its memory: use a shorter context, a smaller batch or a size with more memory",
            )
        return self.message("failed", status, f"the training process of rank {broken[0].rank} ended with code {status}")

    def complete(self):
        step = int(self.finished["step"])
        hf_checkpoint, size = self.outputs.export(step)
        if self.keeper.newest is None:
            raise Unavailable("the run is complete, but no complete checkpoint of it is there")
        metrics = {name: value for name, value in (self.finished.get("metrics") or {}).items() if isinstance(value, float)}
        marker = {
            "version": 1, "uid": self.plan.uid, "attempt": self.plan.attempt, "step": step, "hfCheckpoint": hf_checkpoint,
            "hfCheckpointBytes": size, "checkpoint": self.outputs.store.uri(self.keeper.newest.key), "metrics": metrics,
        }
        self.outputs.write_marker(marker)
        at = self.keeper.newest
        self.report.add_checkpoint({
            "step": step, "epoch": at.epoch, "time": now(), "uri": hf_checkpoint, "sizeBytes": size, "kind": "huggingface",
        })
        return self.completed_message(marker, at)

    def already_complete(self, marker):
        """An attempt before this one did everything, but its verdict was lost."""
        key = split(marker["checkpoint"])[1] if marker.get("checkpoint") else None
        return self.completed_message(marker, self.outputs.checkpoint(key) if key else None)

    def completed_message(self, marker, checkpoint):
        message = self.message("completed", outcomes.DONE)
        message.update(
            step=marker["step"], totalSteps=marker["step"], hfCheckpoint=marker["hfCheckpoint"],
            hfCheckpointBytes=marker["hfCheckpointBytes"], metrics=marker["metrics"], checkpoint=self.describe(checkpoint),
        )
        return message

    def describe(self, checkpoint):
        if checkpoint is None:
            return None
        return {"uri": self.outputs.store.uri(checkpoint.key), "step": checkpoint.step, "sizeBytes": checkpoint.size}

    def message(self, outcome, code, exception=None):
        progress, newest = self.progress, self.keeper.newest if self.keeper else None
        failed = outcome == "failed"
        return {
            "version": 1, "stage": "train",
            "runUid": self.plan.uid if self.plan else os.environ.get("FINETUNE_RUN_UID", ""),
            "attempt": self.plan.attempt if self.plan else int(os.environ.get("FINETUNE_ATTEMPT") or 0),
            "outcome": outcome, "class": failure_class(code),
            "exception": self.redact(exception) if exception else None,
            "logTail": self.output.tail() if failed else None,
            "step": progress.get("step"), "totalSteps": progress.get("totalSteps"),
            "checkpoint": self.describe(newest), "hfCheckpoint": None, "hfCheckpointBytes": None,
            "metrics": {}, "code": code,
        }

    def last_word(self):
        if self.poster is not None:
            self.poster.finish(LAST_POST)


def main(train_json):
    leave(Supervisor(train_json).run())
