"""A table becomes one file of JSON lines, or a failure of the right class. The workspace is played: `workspace.py`."""

import json
import os
import subprocess

import pytest
from conftest import HERE, RUNTIME

ROWS = [{"prompt": f"What is {number}?", "response": "Ein Wort: größer"} for number in range(5)]


@pytest.fixture(scope="module")
def played(engine, s3_server, tmp_path_factory):
    """Every case once, in one process: it imports the engine. The place, and for each case the exit code and the message."""
    environment = {
        **os.environ, "PYTHONPATH": f"{RUNTIME}:{HERE}", "FINETUNE_TERMINATION_LOG": str(tmp_path_factory.mktemp("tables") / "message"),
        "FINETUNE_RUN_UID": "uid", "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "not-a-secret", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": s3_server, "S3_ENDPOINT_URL": s3_server,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        from finetune_llmfoundry.store import S3

        bucket = S3("tables")
        bucket.client.create_bucket(Bucket=bucket.name)
    found = subprocess.run([engine, str(HERE / "workspace.py"), bucket.uri("tables")], capture_output=True, text=True, env=environment)
    assert found.returncode == 0, found.stderr
    return bucket, json.loads(found.stdout.splitlines()[-1])


@pytest.mark.parametrize(("case", "key"), [("spark connect", "tables/spark-connect.jsonl"), ("sql", "tables/sql.jsonl")])
def test_a_table_becomes_one_file(played, case, key):
    bucket, found = played
    data = bucket.read(key)
    assert sorted(map(json.loads, data.splitlines()), key=lambda row: row["prompt"]) == ROWS
    assert found[case] == [0, {
        "version": 1, "stage": "convert", "runUid": "uid", "outcome": "completed", "class": None, "exception": None,
        "tables": [{"table": "main.s.t", "to": bucket.uri(key), "rows": 5, "sizeBytes": len(data)}],
    }]


@pytest.mark.parametrize(("case", "code", "words"), [
    ("a part is lost", 70, "only 3 of the 5 rows of main.s.t were downloaded"),
    ("no cluster", 10, "ClusterDoesNotExistError"),
    ("a cluster without governance", 10, "ClusterInvalidAccessMode"),
    ("an old cluster", 10, "12.2"),
    ("a cluster that cannot start", 10, "FaultyDataPrepCluster"),
    ("a stage failure", 10, "FaultyDataPrepCluster"),
    ("no connection", 70, "FailedToConnectToDatabricksError"),
    ("no connection to sql", 70, "FailedToCreateSQLConnectionError"),
    ("no permission", 30, "InsufficientPermissionsError"),
    ("no permission in sql", 30, "InsufficientPermissionsError"),
    ("no unity catalog", 10, "UCNotEnabledError"),
    ("a wrong column", 20, "MalformedUCTableError"),
    ("no table", 10, "DeltaTableNotFoundError"),
    ("something else", 70, "TableDownloadError"),
])
def test_a_failure_has_its_class_and_leaves_no_file(played, case, code, words):
    bucket, found = played
    classes = {10: "UserError", 20: "DataError", 30: "CredentialError", 70: "Infrastructure"}
    assert (found[case][0], found[case][1]["class"]) == (code, classes[code])
    assert words in found[case][1]["exception"]
    assert bucket.read(f"tables/{case.replace(' ', '-')}.jsonl") is None
