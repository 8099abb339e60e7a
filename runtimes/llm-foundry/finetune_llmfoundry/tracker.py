"""The engine's MLflow logger, but a tracker that is away ends and stalls no training, and checkpoints lose no metrics."""

import os
import time

import mlflow
from composer.loggers import MLFlowLogger
from mlflow.entities import Metric

from .backlog import Backlog

# How long a checkpoint, and the end of a training, wait for the metrics before them.
CHECKPOINT_WAIT = 5.0
END_WAIT = 15.0


class PatientTracker(MLFlowLogger):
    """The engine's logger gives metrics to MLflow's own queue, which drops what a tracker that is away does not take,
    and whose flush may wait for ever and loses what is logged meanwhile."""

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.backlog = Backlog(self.send)
        if self._enabled:
            self.backlog.start()
            # What the engine's logger calls with the metrics that it renamed and did not leave out.
            mlflow.log_metrics = self.keep

    def keep(self, metrics, step=None, **named):
        now = int(time.time() * 1000)
        self.backlog.add([Metric(name, value, now, step or 0) for name, value in metrics.items()])

    def send(self, metrics):
        self._mlflow_client.log_batch(self._run_id, metrics=metrics, synchronous=True)

    def log_table(self, columns, rows, name="Table", step=None):
        try:
            super().log_table(columns, rows, name, step)
        except Exception as error:
            print(f"the table {name} did not get to the tracker: {type(error).__name__}", flush=True)

    def post_close(self):
        if self._enabled and not self.backlog.flush(END_WAIT):
            print("the last metrics did not get to the tracker", flush=True)
        super().post_close()


def settle(trainer):
    """Before a checkpoint becomes visible: a training that goes on from it never logs the metrics before it again."""
    for destination in trainer.logger.destinations:
        if isinstance(destination, PatientTracker):
            destination.backlog.flush(CHECKPOINT_WAIT)


def set_status(plan, status):
    """The engine's logger knows no other end than `FINISHED` and `FAILED`, and not each of them."""
    run = plan.mlflow.get("runId")
    if not run or os.environ.get("RANK", "0") != "0":
        return
    try:
        from mlflow import MlflowClient

        MlflowClient(plan.mlflow.get("trackingUri")).set_terminated(run, status=status)
    except Exception as error:
        print(f"the tracker was not told that the run is {status}: {type(error).__name__}", flush=True)
