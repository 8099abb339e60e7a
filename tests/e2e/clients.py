"""Runs in place of a training: asks each client, made without arguments, for its credentials and prints only their hashes."""

import hashlib
import json
import os
import sys
from pathlib import Path

os.environ["GIT_PYTHON_REFRESH"] = "quiet"
from finetune_llmfoundry import store, termination  # noqa: E402

# What every command of the runtime does first.
store.prepare_environment(os.environ)


def boto3():
    import boto3

    found = boto3.Session().get_credentials()
    return found.access_key, found.secret_key


def google():
    from google.cloud.storage import Client

    client = Client()
    return client.project, client._credentials.service_account_email


def oracle():
    import oci

    config = oci.config.from_file()
    oci.object_storage.ObjectStorageClient(config)
    return config["user"], Path(config["key_file"]).read_text()


def azure():
    return store.open_store("az://container/folder").client.credential.account_name, os.environ["AZURE_STORAGE_ACCOUNT_KEY"]


def databricks():
    from databricks.sdk import WorkspaceClient

    config = WorkspaceClient().config
    return config.host, config.token


def huggingface():
    import huggingface_hub

    return huggingface_hub.get_token()


def wandb():
    from wandb.sdk.lib import apikey

    return apikey.api_key()


def mlflow():
    from mlflow.utils.credentials import get_default_host_creds

    found = get_default_host_creds("https://tracker.example")
    return found.username, found.password


def variable():
    return os.environ["CLIENTS_VARIABLE"]


def mounted():
    return Path("/var/run/finetune/secrets/clients-mounted/licence.txt").read_text()


def ask(client):
    try:
        found = client()
    except Exception as error:
        return f"{type(error).__name__}"
    return hashlib.sha256("\n".join([found] if isinstance(found, str) else found).encode()).hexdigest()


clients = (boto3, google, oracle, azure, databricks, huggingface, wandb, mlflow, variable, mounted)
print("FOUND " + json.dumps({client.__name__: ask(client) for client in clients}), flush=True)
termination.write({
    "version": 1, "stage": "train", "runUid": os.environ["FINETUNE_RUN_UID"], "attempt": 0, "outcome": "failed",
    "class": "UserError", "exception": "nothing is trained here", "logTail": None, "metrics": {},
})
sys.exit(10)
