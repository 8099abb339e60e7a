"""The supervisor as it runs in a pod, with training processes that play a part instead of the engine."""

import json
import os
import signal
import sys
import textwrap
import threading
import time

import pytest
from conftest import ACCESS_KEY, SECRET_KEY, end, wait_until

# What a training process of these tests can do; `say`, `save` and `export` stand for the engine.
PRELUDE = """
import os, signal, sys, time
from finetune_llmfoundry.channel import Channel
from finetune_llmfoundry.store import S3
channel = Channel.from_environment()
say = channel.send
bucket = S3("{bucket}")
def save(step):
    key = f"team-a/my-run/checkpoints/ep0-ba{{step}}-rank0.pt"
    bucket.write(key, b"c" * 50)
    bucket.write("team-a/my-run/checkpoints/latest-rank0.pt.symlink", key.encode())
    say("checkpoint", wait=True, key=key)
def export(step):
    for name in ("config.json", "model.safetensors"):
        bucket.write(f"team-a/my-run/hf_checkpoints/huggingface/ba{{step}}/{{name}}", b"1234")
def progress(step, **more):
    say("progress", progress={{"step": step, "totalSteps": 20, "loss": 2.5, "evalMetrics": {{}}, **more}})
"""


@pytest.fixture
def play(run):
    """Start an attempt whose training process runs the given lines."""
    started = []

    def start(part, **changes):
        script = run.folder / "part.py"
        script.write_text(PRELUDE.format(bucket=run.bucket.name) + textwrap.dedent(part))
        code = "import sys; from finetune_llmfoundry.supervisor import Supervisor, leave; leave(Supervisor(sys.argv[1], sys.argv[2:]).run())"
        started.append(run.start(lambda plan: [sys.executable, "-c", code, str(plan), sys.executable, str(script)], **changes))
        return started[-1]

    yield start
    for process in started:
        end(process)


COMPLETE = """
progress(10); save(10); progress(20); save(20); export(20)
say("event", wait=True, type="TRAIN_FINISHED", message="done")
say("finished", wait=True, step=20, metrics={"loss": 2.5, "LanguagePerplexity": 13.0})
"""


def test_a_whole_attempt_ends_with_export_marker_and_message(run, play, operator):
    code, message = run.finish(play(COMPLETE), 60)
    assert code == 0, run.output()
    export = f"{run.outputs}/hf_checkpoints/huggingface/ba20"
    checkpoint = f"{run.outputs}/checkpoints/ep0-ba20-rank0.pt"
    metrics = {"loss": 2.5, "LanguagePerplexity": 13.0}
    assert message == {
        "version": 1, "stage": "train", "runUid": run.uid, "attempt": 0, "outcome": "completed", "class": None,
        "exception": None, "logTail": None, "step": 20, "totalSteps": 20,
        "checkpoint": {"uri": checkpoint, "step": 20, "sizeBytes": 50}, "hfCheckpoint": export,
        "hfCheckpointBytes": 8, "metrics": metrics,
    }
    assert json.loads(run.read("completed.json")) == {
        "version": 1, "uid": run.uid, "attempt": 0, "step": 20, "hfCheckpoint": export, "hfCheckpointBytes": 8,
        "checkpoint": checkpoint, "metrics": metrics,
    }
    last = operator.bodies[-1]
    assert [(c["step"], c["kind"], c["uri"]) for c in last["checkpoints"]] == [
        (10, "composer", f"{run.outputs}/checkpoints/ep0-ba10-rank0.pt"), (20, "composer", checkpoint), (20, "huggingface", export),
    ]
    assert sorted(operator.events()) == ["CHECKPOINT_SAVED", "CHECKPOINT_SAVED", "TRAIN_FINISHED"]
    assert last["progress"]["step"] == 20


def test_a_completed_run_is_not_trained_again(run, play):
    _, first = run.finish(play(COMPLETE), 60)
    before = run.keys()
    code, message = run.finish(play("raise SystemExit('trained again')", attempt=1), 60)
    assert (code, message) == (0, {**first, "attempt": 1})
    assert run.keys() == before


def test_a_marker_of_another_run_does_not_count(run, play):
    run.bucket.write("team-a/my-run/completed.json", b'{"version": 1, "uid": "other"}')
    code, message = run.finish(play(COMPLETE), 60)
    assert (code, message["runUid"]) == (0, run.uid)
    assert json.loads(run.read("completed.json"))["uid"] == run.uid


def test_a_folder_of_another_run_is_left_alone(run, play):
    run.bucket.write("team-a/my-run/owner.json", b'{"version": 1, "uid": "other"}')
    code, message = run.finish(play(COMPLETE), 60)
    assert (code, message["outcome"], message["class"]) == (13, "failed", "UserError")
    assert "belongs to another run" in message["exception"]
    assert run.keys() == ["owner.json"]


def test_only_so_many_checkpoints_stay(run, play, operator):
    part = "for step in (5, 10, 15, 20): save(step)\nexport(20)\nsay('finished', wait=True, step=20, metrics={})"
    assert run.finish(play(part, keepCheckpoints=2), 60)[0] == 0
    assert [key for key in run.keys() if key.startswith("checkpoints/ep")] == ["checkpoints/ep0-ba15-rank0.pt", "checkpoints/ep0-ba20-rank0.pt"]
    assert [c["step"] for c in operator.bodies[-1]["checkpoints"]] == [15, 20, 20]


def test_an_export_that_is_not_whole_is_no_completion(run, play):
    part = COMPLETE.replace("export(20)", "")
    code, message = run.finish(play(part), 60)
    assert (code, message["class"]) == (70, "Infrastructure")
    assert "lacks config.json, model.safetensors" in message["exception"]
    assert run.read("completed.json") is None


SAVES_ON_STOP = """
def stop(number, frame):
    save(7); say("stopped", wait=True, saved=True); os._exit(60)
signal.signal(signal.SIGTERM, stop)
progress(6); print("ready", flush=True)
while True: time.sleep(0.05)
"""


def stop_when_ready(run, process):
    wait_until(lambda: "ready" in run.output(), what="the training process")
    process.send_signal(signal.SIGTERM)


def test_a_stop_reaches_the_training_process_and_its_checkpoint_counts(run, play):
    process = play(SAVES_ON_STOP)
    stop_when_ready(run, process)
    code, message = run.finish(process, 30)
    assert (code, message["outcome"], message["class"]) == (60, "stopped", "Preempted")
    assert message["checkpoint"] == {"uri": f"{run.outputs}/checkpoints/ep0-ba7-rank0.pt", "step": 7, "sizeBytes": 50}
    assert (message["exception"], message["logTail"]) == (None, None)


def test_a_process_that_does_not_stop_in_time_is_ended_before_the_grace_is_over(run, play):
    process = play("signal.signal(signal.SIGTERM, signal.SIG_IGN)\nsave(4); progress(6); print('ready', flush=True)\ntime.sleep(600)", graceSeconds=8)
    wait_until(lambda: "ready" in run.output(), what="the training process")
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    code, message = run.finish(process, 30)
    assert time.monotonic() - began < 8.0
    assert (code, message["outcome"], message["checkpoint"]["step"]) == (61, "stopped", 4)


def test_a_stop_while_staging_breaks_it_off(run, play, gate):
    run.through(gate)
    run.bucket.write("models/m/config.json", b"{}")
    staging, go_on = threading.Event(), threading.Event()

    def hold(method, path, body):
        if method == "GET" and path.endswith("/config.json"):
            staging.set()
            go_on.wait(60)

    gate.served = hold
    process = play("print('trained', flush=True)", model={"weights": f"s3://{run.bucket.name}/models/m", "local": str(run.folder / "scratch/model")})
    assert staging.wait(60)
    process.send_signal(signal.SIGTERM)
    code, message = run.finish(process, 30)
    go_on.set()
    assert (code, message["outcome"]) == (61, "stopped")
    assert "trained" not in run.output().splitlines()


def test_what_a_process_says_of_its_failure_is_the_verdict(run, play):
    part = f"""
    progress(3); print("some context", flush=True); print("key {SECRET_KEY}", flush=True)
    say("failed", wait=True, code=20, exception="UnknownExampleTypeError: {SECRET_KEY} in row 3")
    sys.exit(20)
    """
    code, message = run.finish(play(part), 60)
    assert (code, message["outcome"], message["class"], message["step"]) == (20, "failed", "DataError", 3)
    assert message["exception"] == "UnknownExampleTypeError: [hidden] in row 3"
    assert message["logTail"].splitlines() == ["some context", "key [hidden]"]
    assert SECRET_KEY not in run.output() and ACCESS_KEY not in run.output()


def test_a_process_that_hangs_after_its_failure_is_ended(run):
    part = """
    say("failed", wait=True, code=50, exception="the loss is nan")
    time.sleep(600)
    """
    script = run.folder / "quick.py"
    script.write_text("import sys\nfrom finetune_llmfoundry import supervisor\nsupervisor.CLEAN_UP = 1.0\n"
                      "sys.exit(supervisor.Supervisor(sys.argv[1], sys.argv[2:]).run())")
    worker = run.folder / "part.py"
    worker.write_text(PRELUDE.format(bucket=run.bucket.name) + textwrap.dedent(part))
    process = run.start(lambda plan: [sys.executable, str(script), str(plan), sys.executable, str(worker)])
    try:
        code, message = run.finish(process, 30)
    finally:
        end(process)
    assert (code, message["class"]) == (50, "Diverged")


def test_a_process_that_dies_without_a_word_is_judged_by_its_end(run, play):
    code, message = run.finish(play("os.kill(os.getpid(), signal.SIGSEGV)"), 60)
    assert (code, message["class"]) == (139, None)
    assert message["exception"] == "the training process of rank 0 ended with code 139"
    code, message = run.finish(play("sys.exit(0)"), 60)
    assert (code, message["exception"]) == (10, "the training process ended without a result")


def test_all_processes_of_a_node_get_their_rank_and_end_together(run, play):
    part = """
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "FINETUNE_RESUME_STEP")
    print("env", *(os.environ[name] for name in names), flush=True)
    while os.environ["RANK"] == "3" and not os.path.exists("../printed"):
        time.sleep(0.02)
    if os.environ["RANK"] == "3":
        say("failed", wait=True, code=40, exception="out of memory"); sys.exit(40)
    print("pid", os.getpid(), flush=True); open("../printed", "w").close()
    time.sleep(600)
    """
    run.environment.update(NODE_RANK="1", MASTER_ADDR="first.svc", MASTER_PORT="29500")
    script = run.folder / "quick.py"
    script.write_text("import sys\nfrom finetune_llmfoundry import supervisor\nsupervisor.CLEAN_UP = 1.0\n"
                      "sys.exit(supervisor.Supervisor(sys.argv[1], sys.argv[2:]).run())")
    worker = run.folder / "part.py"
    worker.write_text(PRELUDE.format(bucket=run.bucket.name) + textwrap.dedent(part))
    process = run.start(lambda plan: [sys.executable, str(script), str(plan), sys.executable, str(worker)], processesPerNode=2, nodes=2)
    try:
        code, message = run.finish(process, 30)
    finally:
        end(process)
    assert (code, message["exception"]) == (40, "out of memory")
    lines = run.output().splitlines()
    assert sorted(line for line in lines if "env" in line) == [
        "[rank 2] env 2 0 4 2 1 first.svc 0", "[rank 3] env 3 1 4 2 1 first.svc 0",
    ]
    pid = int(next(line for line in lines if "pid" in line).split()[-1])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_an_attempt_that_cannot_find_the_expected_checkpoint_never_starts(run, play):
    process = play("print('trained', flush=True)", expectedCheckpoint=f"{run.outputs}/checkpoints/ep1-ba20-rank0.pt", attempt=1)
    code, message = run.finish(process, 60)
    assert (code, message["class"], message["attempt"]) == (12, "UserError", 1)
    assert "trained" not in run.output().splitlines()


def test_an_attempt_tells_its_process_where_to_go_on(run, play):
    key = "team-a/my-run/checkpoints/ep0-ba10-rank0.pt"
    run.bucket.write(key, b"c" * 50)
    run.bucket.write("team-a/my-run/checkpoints/latest-rank0.pt.symlink", key.encode())
    process = play("print('from', os.environ['FINETUNE_RESUME_STEP'], flush=True); sys.exit(3)", expectedCheckpoint=run.bucket.uri(key))
    code, message = run.finish(process, 60)
    assert "from 10" in run.output().splitlines()
    assert (code, message["checkpoint"]) == (3, {"uri": run.bucket.uri(key), "step": 10, "sizeBytes": 50})


def test_refused_credentials_of_the_store_are_a_credential_error(run, play, s3_server):
    run.environment["AWS_PROFILE"] = "missing"
    code, message = run.finish(play(COMPLETE), 60)
    assert (code, message["class"]) == (30, "CredentialError")


def test_a_store_that_is_gone_is_infrastructure(run, play):
    run.environment.update(AWS_ENDPOINT_URL="http://127.0.0.1:1", S3_ENDPOINT_URL="http://127.0.0.1:1", AWS_MAX_ATTEMPTS="1")
    code, message = run.finish(play(COMPLETE), 60)
    assert (code, message["class"]) == (70, "Infrastructure")


def test_what_it_waits_for_is_reported_while_starting(run, play, operator):
    run.bucket.write("models/m/config.json", b"{}")
    run.bucket.write("models/m/model.safetensors", b"x" * 1000)
    process = play("time.sleep(600)", model={"weights": f"s3://{run.bucket.name}/models/m", "local": str(run.folder / "scratch/model")})
    wait_until(lambda: operator.bodies and operator.bodies[-1].get("waitingFor") == {"what": "initialisation", "percent": None}, what="the report")
    assert operator.bodies[0]["waitingFor"]["what"] in ("weights", "initialisation")
    end(process)


def test_training_goes_on_when_nobody_listens_to_reports(run, play, operator):
    operator.hold.clear()
    code, message = run.finish(play(COMPLETE), 60)
    assert (code, message["outcome"]) == (0, "completed")


def test_everything_ends_with_the_supervisor(run, play):
    process = play("from finetune_llmfoundry.worker import die_with_parent; die_with_parent()\nprint('pid', os.getpid(), flush=True); time.sleep(600)")
    pid = int(wait_until(lambda: [line for line in run.output().splitlines() if line.startswith("pid")], what="the process")[0].split()[1])
    process.kill()
    process.wait()

    def gone():
        try:
            with open(f"/proc/{pid}/stat") as stat:
                return stat.read().split(")")[1].split()[0] in "ZX"
        except FileNotFoundError:
            return True

    wait_until(gone, what="the end of the training process")


@pytest.mark.parametrize(("cpu_max", "older", "count"), [
    ("50000 100000", None, 0.5), ("max 100000", None, 4.0), ("800000 100000", None, 4.0), (None, ("150000", "100000"), 1.5), (None, ("-1", "100000"), 4.0),
    (None, None, 4.0),
])
def test_processors_are_those_that_the_container_may_use(tmp_path, monkeypatch, cpu_max, older, count):
    from finetune_llmfoundry import processes

    monkeypatch.setattr(processes.os, "sched_getaffinity", lambda pid: set(range(4)))
    if cpu_max:
        (tmp_path / "cpu.max").write_text(cpu_max + "\n")
    for name, text in zip(("quota", "period"), older or ()):
        (tmp_path / f"cpu.cfs_{name}_us").write_text(text + "\n")
    assert processes.processors(tmp_path / "cpu.max", f"{tmp_path}/cpu.cfs_") == count
