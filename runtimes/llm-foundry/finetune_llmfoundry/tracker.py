"""The engine's MLflow logger, but a tracker that is away for a while ends no training."""

import os

from composer.loggers import MLFlowLogger


class PatientTracker(MLFlowLogger):
    """Metrics are logged in the background anyway; only tables are not."""

    def log_table(self, columns, rows, name="Table", step=None):
        try:
            super().log_table(columns, rows, name, step)
        except Exception as error:
            print(f"the table {name} did not get to the tracker: {type(error).__name__}", flush=True)


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
