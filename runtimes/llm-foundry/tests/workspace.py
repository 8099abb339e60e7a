"""Reads tables of a workspace that is not there: LLM Foundry's own converter, with its connections replaced. Runs in the engine's environment.

`workspace.py PLACE` prints for each case the exit code and the termination message.
"""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import composer.utils.retrying
import databricks.connect
import databricks.sdk
import databricks.sql
import grpc
import pyarrow
from databricks.sql.exc import ServerOperationError
from exercise import Dialect, Server
from finetune_llmfoundry import convert
from pyspark.errors import AnalysisException
from pyspark.errors.exceptions.connect import SparkConnectGrpcException

ROWS = [{"prompt": f"What is {number}?", "response": "Ein Wort: größer"} for number in range(5)]


class Parts(Dialect):
    """The workspace's storage: rows two by two, as Arrow."""

    def handle_request(self, path, query, body):
        start = int(path.rsplit("/", 1)[1])
        if start == self.server.lost:
            return self.answer(403)
        table = pyarrow.Table.from_pylist(ROWS[start:start + 2])
        sink = pyarrow.BufferOutputStream()
        with pyarrow.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        self.answer(200, sink.getvalue().to_pybytes())


storage = Server(Parts)
storage.lost = None


def answer(query):
    if "COUNT(*)" in query:
        rows = [{"count": len(ROWS)}]
    elif "SHOW COLUMNS" in query:
        rows = [{"col_name": "prompt"}, {"col_name": "response"}]
    else:
        rows = ROWS
    return [SimpleNamespace(asDict=lambda row=row: dict(row)) for row in rows]


OLDER = "13.3.x-scala2.12"


class Case:
    """One workspace: the cluster that it answers with, and the error of its queries or of the connection to it."""

    mode, runtime, fails, unreachable, lost = "USER_ISOLATION", "15.4.x-scala2.12", None, None, None

    def __init__(self, **values):
        vars(self).update(values)

    def query(self, query):
        if self.fails:
            raise self.fails
        return answer(query)

    def connect(self, **named):
        if self.unreachable:
            raise self.unreachable
        return SimpleNamespace(
            sql=lambda query: SimpleNamespace(collect=lambda: self.query(query)), stop=lambda: None,
            table=lambda name: SimpleNamespace(collect_cf=lambda form: (
                [SimpleNamespace(url=f"{storage.url}/{start}") for start in range(0, len(ROWS), 2)], len(ROWS), False)),
        )

    def connect_sql(self, server_hostname, http_path, access_token):
        assert (server_hostname, http_path, access_token) == ("workspace.example", "sql/protocolv1/o/77/0101-cluster", "dapi")
        if self.unreachable:
            raise self.unreachable
        found = []
        cursor = SimpleNamespace(execute=lambda query: found.append(self.query(query)), fetchall=lambda: found[-1], close=lambda: None)
        return SimpleNamespace(cursor=lambda: cursor, close=lambda: None)

    def get(self, cluster_id):
        if self.mode is None:
            return None
        return SimpleNamespace(data_security_mode=f"DataSecurityMode.{self.mode}", spark_version=self.runtime)


class Rpc(grpc.RpcError):
    def code(self):
        return grpc.StatusCode.INTERNAL

    def details(self):
        return "Job aborted due to stage failure: x"


def sql(text):
    return ServerOperationError(text)


CASES = {
    "spark connect": Case(),
    "sql": Case(runtime=OLDER),
    "a part is lost": Case(lost=2),
    "no cluster": Case(mode=None),
    "a cluster without governance": Case(mode="NONE"),
    "an old cluster": Case(runtime="11.3.x-scala2.12"),
    "a cluster that cannot start": Case(fails=SparkConnectGrpcException("Cannot start cluster")),
    "a stage failure": Case(fails=Rpc()),
    "no connection": Case(unreachable=OSError("no route")),
    "no connection to sql": Case(runtime=OLDER, unreachable=OSError("no route")),
    "no permission": Case(fails=AnalysisException("[INSUFFICIENT_PERMISSIONS] no SELECT")),
    "no permission in sql": Case(runtime=OLDER, fails=sql("[INSUFFICIENT_PERMISSIONS] no SELECT")),
    "no unity catalog": Case(fails=AnalysisException("[UC_NOT_ENABLED]")),
    "a wrong column": Case(fails=AnalysisException("[UNRESOLVED_COLUMN.WITH_SUGGESTION] x")),
    "no table": Case(fails=AnalysisException("Error processing `main`.`s`.`t`: Delta table `s`.`t` doesn't exist.")),
    "something else": Case(fails=RuntimeError("odd")),
}


def main(place):
    # The converter tries some queries five times.
    composer.utils.retrying.time = SimpleNamespace(sleep=lambda seconds: None)
    log = Path(os.environ["FINETUNE_TERMINATION_LOG"])
    found = {}
    for name, case in CASES.items():
        storage.lost = case.lost
        config = SimpleNamespace(host="https://workspace.example", token="dapi")
        databricks.sdk.WorkspaceClient = lambda case=case: SimpleNamespace(config=config, clusters=case, get_workspace_id=lambda: 77)
        databricks.sql.connect = case.connect_sql
        databricks.connect.DatabricksSession = SimpleNamespace(
            builder=SimpleNamespace(remote=lambda case=case, **named: SimpleNamespace(getOrCreate=case.connect)),
        )
        plan = log.with_name("convert.json")
        target = f"{place}/{name.replace(' ', '-')}.jsonl"
        plan.write_text(json.dumps({
            "version": 1, "run": {"namespace": "team-a", "name": "my-run", "uid": "uid"}, "clusterId": "0101-cluster",
            "tables": [{"table": "main.s.t", "to": target}],
        }))
        code = convert.main(plan)
        found[name] = [code, json.loads(log.read_text())]
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
