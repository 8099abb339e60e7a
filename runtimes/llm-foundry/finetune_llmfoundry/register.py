"""Registers a run's export in the MLflow registry: one version per run, however often it is killed and started again."""

import os
import shutil
import tempfile
import time
from importlib.metadata import version as installed
from pathlib import Path

from . import command, plan as plans
from .outcomes import ConfigRefused, DataUnusable, Unavailable
from .staging import download_folder

TAG = "finetune.run-uid"
ARTIFACT = "model"
READY_SECONDS = 300
PAGE = 1000
TASKS = {"CHAT_COMPLETION": "llm/v1/chat"}
REQUIREMENTS = ("transformers", "torch", "accelerate")


def absent(error):
    return getattr(error, "error_code", "") in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND")


def find(client, name, run_id, uid):
    """The version that this run made before, or None. The registry of Unity Catalog filters by nothing but the name."""
    from mlflow.exceptions import MlflowException

    token = None
    while True:
        try:
            page = client.search_model_versions(f"name='{name}'", max_results=PAGE, page_token=token)
        except MlflowException as error:
            if absent(error):
                return None
            raise
        for candidate in page:
            tags = candidate.tags
            if TAG not in tags and candidate.run_id == run_id:
                tags = client.get_model_version(name, candidate.version).tags
            if tags.get(TAG) == uid:
                return candidate
        token = page.token
        if not token:
            return None


def wait_until_ready(client, found):
    """A version whose making was cut off stays pending or fails; a failed one is removed."""
    deadline = time.monotonic() + READY_SECONDS
    while found.status == "PENDING_REGISTRATION" and time.monotonic() < deadline:
        time.sleep(2)
        found = client.get_model_version(found.name, found.version)
    if found.status == "READY":
        return found
    if found.status == "FAILED_REGISTRATION":
        client.delete_model_version(found.name, found.version)
        return None
    raise Unavailable(f"version {found.version} of {found.name} is not ready after {READY_SECONDS} s")


def log_model(folder, run_id, task_type, uid):
    """Log the export by its path: nothing is loaded, and signature and task follow from the kind of model."""
    import mlflow.transformers

    mlflow.transformers.log_model(
        transformers_model=str(folder),
        artifact_path=ARTIFACT,
        task=TASKS.get(task_type, "llm/v1/completions"),
        pip_requirements=[f"{name}=={installed(name)}" for name in REQUIREMENTS],
        metadata={TAG: uid},
        run_id=run_id,
    )


def register(value):
    import mlflow
    from mlflow import MlflowClient

    where = "register.json"
    uid = plans.need(plans.need(value, "run", dict, where), "uid", str, where)
    name = plans.need(value, "name", str, where)
    tracker = plans.need(value, "mlflow", dict, where)
    run_id = plans.need(tracker, "runId", str, where)
    if "'" in name:
        raise ConfigRefused(f"{where}: name holds a quote")
    mlflow.set_tracking_uri(plans.need(tracker, "trackingUri", str, where))
    if tracker.get("registryUri"):
        mlflow.set_registry_uri(tracker["registryUri"])
    client = MlflowClient()
    found = find(client, name, run_id, uid)
    found = wait_until_ready(client, found) if found else None
    if found is None:
        folder = Path(tempfile.mkdtemp(prefix="export-"))
        try:
            export = plans.need(value, "hfCheckpoint", str, where)
            download_folder(export, folder, lambda percent: None)
            if not (folder / "config.json").exists():
                raise DataUnusable(f"there is no export at {export}")
            log_model(folder, run_id, value.get("taskType"), uid)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        # The tag comes with the version, so a version without it is not ours.
        found = mlflow.register_model(
            f"runs:/{run_id}/{ARTIFACT}", name, await_registration_for=READY_SECONDS, tags={TAG: uid},
        )
    return {"name": found.name, "version": str(found.version), "uri": f"models:/{found.name}/{found.version}"}


def main(register_json):
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "4")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    # Nothing is looked up: the model card of a path would be searched on the hub.
    os.environ["HF_HUB_OFFLINE"] = "1"

    def work():
        value = plans.read_json(register_json)
        model = register(value)
        print(f"registered {model['uri']}", flush=True)
        return {"runUid": value["run"]["uid"], "model": model}

    return command.run("register", work)
