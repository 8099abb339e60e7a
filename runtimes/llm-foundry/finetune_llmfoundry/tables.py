"""Copies tables of Unity Catalog to files of JSON lines with LLM Foundry's own converter; changes names in that module."""

import json
import tempfile
from pathlib import Path

from .outcomes import INFRASTRUCTURE, DataUnusable, RunError, Unavailable, lookup
from .processes import processors
from .store import open_store, split

NAME = "train-00000-of-00001.jsonl"
# Rows that a cluster without Spark Connect is asked for at once.
BATCH = 100_000
# Parts of some ten megabytes that are downloaded side by side.
PROCESSES = 8


def check_whole(path, table, total):
    """The engine keeps silent about a part that could not be downloaded, and reads all lines into memory to check them."""
    rows = 0
    with open(path, "rb") as file:
        for rows, line in enumerate(file, 1):
            try:
                json.loads(line)
            except ValueError:
                raise DataUnusable(f"row {rows} of {table} is not JSON") from None
    if total == 0:
        raise DataUnusable(f"{table} has no rows")
    if rows != total:
        raise Unavailable(f"only {rows} of the {total} rows of {table} were downloaded: see that this network may read the workspace's storage")
    return rows


def convert(table, cluster, folder):
    """Write the rows of a table to the file NAME below a folder; returns how many there are."""
    from llmfoundry.command_utils.data_prep import convert_delta_to_json as engine

    import databricks.sdk
    import databricks.sql

    totals, rows = [], []
    count, connect = engine.get_total_rows, databricks.sql.connect

    def connect_to_cluster(http_path=None, **named):
        # The converter leaves the path to its caller, who cannot know which way it goes.
        number = databricks.sdk.WorkspaceClient().get_workspace_id()
        return connect(http_path=f"sql/protocolv1/o/{number}/{cluster}", **named)

    def counted(*arguments):
        totals.append(count(*arguments))
        return totals[-1]

    engine.get_total_rows, databricks.sql.connect = counted, connect_to_cluster
    engine._validate_written_file = lambda folder, name, table: rows.append(check_whole(Path(folder) / name, table, totals[-1]))
    try:
        engine.convert_delta_to_json_from_args(
            delta_table_name=table, json_output_folder=str(folder), http_path=None, cluster_id=cluster,
            use_serverless=False, batch_size=BATCH, processes=max(1, min(PROCESSES, int(processors()))), json_output_filename=NAME,
        )
    except Exception as error:
        # What the engine made of a failure says more than what the failure was, unless it only says that the network failed.
        code = lookup(error) if type(error).__module__ == "llmfoundry.utils.exceptions" else None
        if code in (None, INFRASTRUCTURE):
            raise
        judged = RunError(f"{table}: {type(error).__name__}: {error}")
        judged.code = code
        raise judged from error
    finally:
        engine.get_total_rows, databricks.sql.connect = count, connect
    return rows[-1]


def copy(table, cluster, target):
    """Bring one table to its file, which appears whole or not at all."""
    store, key = open_store(target), split(target)[1]
    with tempfile.TemporaryDirectory(prefix="table-") as folder:
        rows = convert(table, cluster, Path(folder) / "json")
        path = Path(folder) / "json" / NAME
        size = path.stat().st_size
        store.upload(key, path)
    print(f"{rows} rows of {table} are at {target}", flush=True)
    return {"table": table, "to": target, "rows": rows, "sizeBytes": size}
