"""The real engine, on the CPU, against an S3 server. Each start imports it (10 to 40 s): few runs prove many things."""

import json
import os
import re
import signal
import subprocess
import threading
import time
from pathlib import Path

import corpus
import mds
import pytest
from conftest import RUNTIME, SECRET_KEY, Run, end, engine_yaml, wait_until

SECONDS = 420


@pytest.fixture(scope="session")
def material(engine, tmp_path_factory):
    """The tiny model and the three data sets on disk."""
    folder = tmp_path_factory.mktemp("material")
    (folder / "text.txt").write_text(corpus.text())
    command = [engine, "-m", "finetune_llmfoundry", "tiny-model", str(folder / "model"), "--text", str(folder / "text.txt")]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(RUNTIME)}, capture_output=True)
    script = "import sys; from tokenizers import Tokenizer; print(*Tokenizer.from_file(sys.argv[1]).encode(open(sys.argv[2]).read()).ids)"
    tokens = subprocess.run(
        [engine, "-c", script, str(folder / "model/tokenizer.json"), str(folder / "text.txt")],
        check=True, capture_output=True, text=True,
    ).stdout.split()
    ids = [int(token) for token in tokens] * 5
    rows = [{"tokens": ids[at:at + 64]} for at in range(0, len(ids) - 64, 64)]
    mds.write(folder / "mds/instruction-finetune", {"prompt": "str", "response": "str"}, corpus.pairs())
    mds.write(folder / "mds/chat-completion", {"messages": "json"}, corpus.chats())
    mds.write(folder / "mds/continued-pretrain", {"tokens": "ndarray:int32"}, rows)
    return folder


def tracker(engine, folder):
    """An MLflow store in a folder with one experiment and one run, as preflight would have made them."""
    uri = f"file://{folder}/mlruns"
    script = ("import sys, json; from mlflow import MlflowClient; c = MlflowClient(sys.argv[1]); e = c.create_experiment('/finetune/x'); "
              "print(json.dumps({'trackingUri': sys.argv[1], 'experimentId': e, 'runId': c.create_run(e, run_name='my-run').info.run_id}))")
    found = subprocess.run([engine, "-c", script, uri], check=True, capture_output=True, text=True).stdout
    return json.loads(found.strip().splitlines()[-1])


class EngineRun(Run):
    def __init__(self, task, engine, folder, bucket, environment, material):
        self.python, self.task = engine, task
        config = engine_yaml(folder, bucket, task)
        super().__init__(folder, bucket, environment, config)
        for path in (material / "model").iterdir():
            bucket.write(f"models/tiny/{path.name}", path.read_bytes())
        for key in ("train-key", "eval-key"):
            for path in (material / "mds" / task).iterdir():
                bucket.write(f"team-a/mds/{key}/{path.name}", path.read_bytes())
        self.tracker = tracker(engine, self.folder)
        config["loggers"]["mlflow"]["tracking_uri"] = self.tracker["trackingUri"]
        self.environment.update(MLFLOW_TRACKING_URI=self.tracker["trackingUri"], MLFLOW_RUN_ID=self.tracker["runId"])

    def attempt(self, number=0, **changes):
        model = {"weights": self.bucket.uri("models/tiny"), "revision": None,
                 "local": str(self.folder / "scratch/model"), "chatTemplate": None, "padToken": None}
        task = self.task.upper().replace("-", "_")
        return self.start(
            lambda plan: [self.python, "-m", "finetune_llmfoundry", "train", "--plan", str(plan)],
            attempt=number, model=model, taskType=task, mlflow=self.tracker, graceSeconds=120, **changes,
        )

    def register(self, export):
        plan = self.folder / "register.json"
        plan.write_text(json.dumps({
            "version": 1, "run": {"namespace": "team-a", "name": "my-run", "uid": self.uid}, "hfCheckpoint": export,
            "taskType": self.task.upper().replace("-", "_"), "mlflow": {**self.tracker, "registryUri": None}, "name": "my-model",
        }))
        self.termination.unlink(missing_ok=True)
        self.log = self.folder / "log-register"
        with open(self.log, "wb") as log:
            return subprocess.Popen(
                [self.python, "-m", "finetune_llmfoundry", "register", "--plan", str(plan)], env=self.environment,
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )

    def ask(self, script, *arguments):
        """Run a few lines in the engine's environment and return what they print as JSON."""
        found = subprocess.run([self.python, "-c", script, *arguments], capture_output=True, text=True, env=self.environment)
        assert found.returncode == 0, found.stderr
        return json.loads(found.stdout.strip().splitlines()[-1])

    def tracked(self):
        """All runs of the experiment, with the steps at which the training loss was logged, and the prompts' table."""
        return self.ask(
            "import sys, json; from mlflow import MlflowClient; c = MlflowClient(sys.argv[1]); runs = c.search_runs([sys.argv[2]])\n"
            "print(json.dumps([{'id': r.info.run_id, 'status': r.info.status, 'metrics': sorted(r.data.metrics), 'steps': sorted("
            "m.step for m in c.get_metric_history(r.info.run_id, 'loss/train/total'))} for r in runs]))",
            self.tracker["trackingUri"], self.tracker["experimentId"],
        )


def remove_shared_memory(folder):
    """What the engine's loaders of a killed run left behind; each set has a file that names its local folders."""
    for locals_file in Path("/dev/shm").glob("*_locals"):
        if str(folder).encode() in locals_file.read_bytes():
            for path in Path("/dev/shm").glob(f"{locals_file.name.removesuffix('_locals')}_*"):
                path.unlink(missing_ok=True)


@pytest.fixture
def make_run(engine, material, tmp_path, operator):
    def make(task, bucket, environment):
        folder = tmp_path / "run"
        folder.mkdir()
        return EngineRun(task, engine, folder, bucket, {**environment, **operator.environment()}, material)

    yield make
    remove_shared_memory(tmp_path)


def done(run, process, code=0):
    found, message = run.finish(process, SECONDS)
    assert found == code, run.output()
    assert SECRET_KEY not in run.output() and SECRET_KEY not in json.dumps(message)
    return message


def test_engine_instruction_finetune_from_start_to_one_registered_version(make_run, operator, bucket, s3_environment):
    run = make_run("instruction-finetune", bucket, s3_environment)
    run.engine["max_duration"] = "4ep"
    message = done(run, run.attempt(keepCheckpoints=2))
    steps = message["step"]
    assert steps == 4 * 3  # 40 rows, 12 packed into a step, the rest of an epoch dropped
    checkpoint = f"checkpoints/ep4-ba{steps}-rank0.pt"
    export = f"{run.outputs}/hf_checkpoints/huggingface/ba{steps}"
    assert (message["outcome"], message["totalSteps"], message["hfCheckpoint"]) == ("completed", steps, export)
    assert message["checkpoint"]["uri"] == f"{run.outputs}/{checkpoint}" and message["checkpoint"]["sizeBytes"] > 1_000_000
    assert set(message["metrics"]) == {"loss", "LanguageCrossEntropy", "LanguagePerplexity", "TokenAccuracy"}

    # Nothing but what the contract names: no probe, two checkpoints of four.
    names = [key for key in run.keys() if not key.startswith("hf_checkpoints/")]
    assert names == ["checkpoints/ep3-ba9-rank0.pt", checkpoint, "checkpoints/latest-rank0.pt.symlink", "completed.json"]
    assert {key.split("/")[0] for key, _ in run.bucket.list("")} == {"models", "team-a"}
    marker = json.loads(run.read("completed.json"))
    assert (marker["uid"], marker["step"], marker["metrics"]) == (run.uid, steps, message["metrics"])

    # The operator heard of it live: in order, with every number.
    assert operator.bodies[0]["waitingFor"]["what"] in ("weights", "initialisation")
    assert {body["start"] for body in operator.bodies} == {operator.bodies[0]["start"]}
    assert [body["sequence"] for body in operator.bodies] == sorted({body["sequence"] for body in operator.bodies})
    assert operator.steps() == sorted(operator.steps()) and operator.steps()[-1] == steps
    events = operator.events()
    # The last checkpoint is complete before or after the training says that it ended: it is uploaded meanwhile.
    assert events[:2] == ["MODEL_INITIALIZED", "TRAIN_STARTED"] and events.count("TRAIN_FINISHED") == 1
    assert 1 <= events.count("CHECKPOINT_SAVED") <= 4 and len(events) == 3 + events.count("CHECKPOINT_SAVED")
    last = operator.bodies[-1]["progress"]
    assert (last["step"], last["totalSteps"], last["totalTokens"]) == (steps, steps, None)
    assert last["tokens"] > 0 and last["tokensPerSecond"] > 0 and last["gradientNorm"] > 0 and last["learningRate"] >= 0
    assert last["loss"] == message["metrics"]["loss"] and last["estimatedRemainingSeconds"] is not None

    # The tracker has the one run, with the answers to the eval prompts.
    [tracked] = run.tracked()
    assert (tracked["id"], tracked["status"]) == (run.tracker["runId"], "FINISHED")
    assert {"metrics/eval/LanguagePerplexity", "loss/train/total"} <= set(tracked["metrics"])
    [table] = run.folder.glob("mlruns/*/*/artifacts/generations.json")
    assert json.loads(table.read_text())["data"][0][0] == "What is the capital of France?"

    # Registered twice, one version.
    first = done(run, run.register(export))
    assert first == {
        "version": 1, "stage": "register", "runUid": run.uid, "outcome": "completed", "class": None, "exception": None,
        "model": {"name": "my-model", "version": "1", "uri": "models:/my-model/1"},
    }
    assert done(run, run.register(export)) == first
    registered = run.ask(
        "import sys, json; from mlflow import MlflowClient; from mlflow.models import get_model_info\n"
        "versions = MlflowClient(sys.argv[1]).search_model_versions(\"name='my-model'\")\n"
        "info = get_model_info('models:/my-model/1')\n"
        "print(json.dumps([[v.version, v.tags, v.run_id] for v in versions] + [info.signature is not None, info.flavors['transformers']['task']]))",
        run.tracker["trackingUri"],
    )
    assert registered == [[1, {"finetune.run-uid": run.uid}, run.tracker["runId"]], True, "text-generation"]


def test_engine_stop_resume_kill_and_export_only_are_one_training(make_run, operator, google_gate, google_bucket, google_environment):
    run, gate = make_run("continued-pretrain", google_bucket, google_environment), google_gate
    run.through(gate)
    # 16 steps of 8 rows of 64 tokens.
    run.engine["save_interval"] = "1024tok"
    process = run.attempt(0)
    wait_until(lambda: "training starts at step 0" in run.output(), SECONDS, "the first step")
    process.send_signal(signal.SIGTERM)
    stopped = done(run, process, 60)
    at = stopped["step"]
    assert stopped["outcome"] == "stopped" and 1 <= at < 16
    assert stopped["checkpoint"]["step"] == at
    assert run.read("checkpoints/latest-rank0.pt.symlink").endswith(stopped["checkpoint"]["uri"].rsplit("/", 1)[1])
    assert run.read("completed.json") is None

    # The next attempt goes on from there and is killed as soon as the last checkpoint is complete, before the marker.
    started = threading.Event()

    def kill_at_the_last_link(method, path, body):
        if method in ("PUT", "POST") and b".symlink" in body and b"-ba16-" in body:
            started.wait(10)
            end(process)

    gate.served = kill_at_the_last_link
    process = run.attempt(1, expectedCheckpoint=stopped["checkpoint"]["uri"])
    started.set()
    assert process.wait(SECONDS) == -signal.SIGKILL, run.output()
    gate.served = lambda method, path, body: None
    assert "-ba16-" in run.read("checkpoints/latest-rank0.pt.symlink") and run.read("completed.json") is None
    assert f"training starts at step {at}" in run.output().splitlines()

    # Only the export is missing: nothing is trained again.
    run.bucket.delete([key for key, _ in run.bucket.list("team-a/my-run/hf_checkpoints/")])
    before = len(operator.bodies)
    message = done(run, run.attempt(2))
    assert (message["outcome"], message["attempt"], message["step"]) == ("completed", 2, 16)
    assert "exporting only" in run.output()
    later = [event["type"] for event in operator.bodies[-1]["events"]]
    assert "TRAIN_STARTED" not in later and "MODEL_INITIALIZED" in later
    assert [body for body in operator.bodies[before:] if body.get("progress")] == []
    assert json.loads(run.read("completed.json"))["attempt"] == 2
    assert {"loss", "LanguagePerplexity"} <= set(message["metrics"])

    # One tracker run over all attempts, each step once.
    [tracked] = run.tracked()
    assert tracked["id"] == run.tracker["runId"]
    assert set(tracked["steps"]) == set(range(16))

    # A key that may only use objects is enough.
    assert not {f"/storage/v1/b/{run.bucket.name}", "/storage/v1/b"} & gate.paths

    # And once more: the marker answers.
    began = time.monotonic()
    again = done(run, run.attempt(3))
    assert {**again, "attempt": 2, "totalSteps": 16} == {**message, "totalSteps": 16}
    assert time.monotonic() - began < 30


def test_engine_chat_completion_prompts_go_through_the_chat_template(make_run, operator, volume):
    run = make_run("chat-completion", volume, volume.environment)
    run.engine["max_duration"] = "10ba"
    # As the compiler writes text of users.
    run.engine["callbacks"]["generate_callback"]["prompts"] = ["What is the capital of France?", r"What is \${oc.env:HOME}?"]
    message = done(run, run.attempt())
    assert (message["step"], set(message["metrics"])) == (10, {"loss"})
    [table] = run.folder.glob("mlruns/*/*/artifacts/generations.json")
    prompts = [row[0] for row in json.loads(table.read_text())["data"]]
    registered = done(run, run.register(message["hfCheckpoint"]))
    assert registered["model"] == {"name": "my-model", "version": "1", "uri": "models:/my-model/1"}
    [description] = run.folder.glob("mlruns/*/*/artifacts/model/MLmodel")
    assert "task: llm/v1/chat" in description.read_text()
    assert prompts == ["<|user|>\nWhat is the capital of France?</s>\n<|assistant|>\n", "<|user|>\nWhat is ${oc.env:HOME}?</s>\n<|assistant|>\n"]


def test_engine_an_infinite_loss_ends_the_run_without_a_bad_checkpoint(make_run, bucket, s3_environment):
    run = make_run("chat-completion", bucket, s3_environment)
    run.engine.update(max_duration="20ba", save_interval="1ba")
    run.engine["optimizer"]["lr"] = 1e30
    run.engine["algorithms"] = {}
    message = done(run, run.attempt(), 50)
    assert (message["outcome"], message["class"]) == ("failed", "Diverged")
    assert re.fullmatch(r"the loss is (nan|inf) at step \d+: .*", message["exception"])
    failed_at = int(re.search(r"step (\d+)", message["exception"])[1])
    assert [key for key in run.keys() if f"ba{failed_at}-" in key] == []
