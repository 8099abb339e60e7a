"""Reads what a stage was told to do: train.json, register.json and engine.yaml. Refuses what it cannot keep."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from .outcomes import ConfigRefused

SIZE_LIMIT = 1 << 20
ETC = Path("/etc/finetune")
CLAIMS = "/var/run/finetune/claims/"


def read_json(path):
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ConfigRefused(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > SIZE_LIMIT:
        raise ConfigRefused(f"{path} has more than {SIZE_LIMIT} bytes")
    try:
        value = json.loads(data)
    except ValueError as error:
        raise ConfigRefused(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict) or value.get("version") != 1:
        raise ConfigRefused(f"{path} must be an object with version 1")
    return value


def need(value, name, kind, where):
    found = value.get(name)
    if not isinstance(found, kind) or isinstance(found, bool) or found == "":
        raise ConfigRefused(f"{where}: {name} is missing or not of type {kind.__name__}")
    return found


@dataclass(frozen=True)
class Model:
    weights: str | None
    revision: str | None
    local: str
    chat_template: str | None
    pad_token: str | None


@dataclass(frozen=True)
class TrainPlan:
    uid: str
    name: str
    attempt: int
    engine_config: str
    processes: int
    nodes: int
    model: Model
    outputs: str
    expected_checkpoint: str | None
    task_type: str
    keep_checkpoints: int
    grace_seconds: int
    mlflow: dict = field(default_factory=dict)

    @property
    def checkpoints(self):
        return f"{self.outputs}/checkpoints"

    @property
    def exports(self):
        return f"{self.outputs}/hf_checkpoints"

    @property
    def world_size(self):
        return self.processes * self.nodes


def train_plan(path):
    where = str(path)
    value = read_json(path)
    run = need(value, "run", dict, where)
    model = need(value, "model", dict, where)
    plan = TrainPlan(
        uid=need(run, "uid", str, where),
        name=need(run, "name", str, where),
        attempt=need(value, "attempt", int, where),
        engine_config=value.get("engineConfig") or str(ETC / "engine.yaml"),
        processes=need(value, "processesPerNode", int, where),
        nodes=need(value, "nodes", int, where),
        model=Model(
            weights=model.get("weights"), revision=model.get("revision"), local=need(model, "local", str, where),
            chat_template=model.get("chatTemplate"), pad_token=model.get("padToken"),
        ),
        outputs=need(value, "outputs", str, where).rstrip("/"),
        expected_checkpoint=value.get("expectedCheckpoint"),
        task_type=need(value, "taskType", str, where),
        keep_checkpoints=max(1, value.get("keepCheckpoints") or 3),
        grace_seconds=max(1, value.get("graceSeconds") or 30),
        mlflow=value.get("mlflow") or {},
    )
    if plan.processes < 1 or plan.nodes < 1:
        raise ConfigRefused(f"{where}: processesPerNode and nodes must be at least 1")
    return plan


def engine_config(plan):
    """The engine's configuration with what every attempt needs set; refuses one that would write elsewhere."""
    import yaml

    path = plan.engine_config
    try:
        text = Path(path).read_text()
        config = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigRefused(f"{path} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise ConfigRefused(f"{path} must be a mapping")
    # Nothing in it is a reference: it is complete, and text of users is escaped.
    config = each_text(config, plain)
    if str(config.get("save_folder", "")).rstrip("/") != plan.checkpoints:
        raise ConfigRefused(f"{path}: save_folder must be {plan.checkpoints}")
    exporter = (config.get("callbacks") or {}).get("hf_checkpointer")
    if not isinstance(exporter, dict) or str(exporter.get("save_folder", "")).rstrip("/") != plan.exports:
        raise ConfigRefused(f"{path}: callbacks.hf_checkpointer.save_folder must be {plan.exports}")
    if exporter.get("huggingface_folder_name", "ba{batch}") != "ba{batch}":
        raise ConfigRefused(f"{path}: callbacks.hf_checkpointer.huggingface_folder_name must be ba{{batch}}")
    if exporter.get("mlflow_registered_model_name"):
        raise ConfigRefused(f"{path}: registration is a stage of its own, leave mlflow_registered_model_name out")
    if not config.get("run_name"):
        raise ConfigRefused(f"{path}: run_name is missing, the engine cannot resume without it")
    if "save_filename" in config or config.get("save_weights_only"):
        raise ConfigRefused(f"{path}: save_filename and save_weights_only cannot be set, resuming depends on both")
    if str(config.get("load_path", "")).startswith("pvc://"):
        config["load_path"] = CLAIMS + str(config["load_path"]).removeprefix("pvc://")
    config["autoresume"], config["save_overwrite"] = True, True
    return config


def latest_link(config, world_size):
    """The name of the object that names the newest complete checkpoint, as the engine derives it."""
    fsdp = config.get("fsdp_config") if world_size > 1 else None
    sharded = bool(fsdp) and fsdp.get("state_dict_type", "full") == "sharded"
    name = config.get("save_latest_filename") or ("latest-sharded-rank{rank}" if sharded else "latest-rank{rank}.pt")
    return name.replace("{rank}", "0") + ".symlink"


def literal(text):
    """Text as the engine's configuration library must see it, which takes `${` for a reference."""
    return re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + r"\${", text)


def plain(text):
    """What `literal` was made from."""
    return re.sub(r"(\\+)\$\{", lambda match: "\\" * (len(match[1]) // 2) + "${", text)


def for_engine(text):
    """Text as it survives the engine, which resolves its configuration twice: the second time what the first one unescaped."""
    return literal(literal(text))


def each_text(value, change):
    if isinstance(value, dict):
        return {key: each_text(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [each_text(item, change) for item in value]
    return change(value) if isinstance(value, str) else value
