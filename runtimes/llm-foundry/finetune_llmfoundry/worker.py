"""One training process: runs the engine's own entry with the run's configuration and tells the supervisor what happened.

Imports the engine inside functions only: processes that the engine or a tracker spawns import this package again.
"""

import ctypes
import os
import signal
import sys
import threading
import traceback

from .channel import Channel
from .outcomes import CHECKPOINT, STOPPED, USER, RunError, StopRequested, describe, exit_code
from .plan import each_text, engine_config, for_engine, train_plan
from .processes import leave

RESUME_STEP = "FINETUNE_RESUME_STEP"
PR_SET_PDEATHSIG = 1


class Context:
    """What the engine's side of this process shares: the wish to stop, how far it is, the newest metrics."""

    def __init__(self, channel, config, resume_step):
        self.channel = channel
        self.resume_step = resume_step
        self.save_interval = config.get("save_interval", "1000ba")
        self.eval_interval = config.get("eval_interval", 1) if config.get("eval_loader") else 0
        self.stop = threading.Event()
        self.training = self.loading = False
        self.trainer = None
        self.metrics = {}


def die_with_parent():
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def through_chat_template(prompts, name, arguments):
    """Eval prompts as the model saw prompts in training; the engine's callback tokenizes raw strings."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(name, **arguments)
    # The callback's own tokenization adds the token for the beginning once more.
    adds = tokenizer.bos_token is not None and tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
    rendered = []
    for prompt in prompts:
        messages = [{"role": "user", "content": prompt}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        rendered.append(text.removeprefix(tokenizer.bos_token) if adds else text)
    return rendered


def prepare(config, plan):
    """The configuration as the engine gets it: what only the node knows, and the observer among its loggers."""
    tokenizer = config.setdefault("tokenizer", {})
    arguments = tokenizer.setdefault("kwargs", {})
    if plan.model.weights is None:
        # Nothing was staged, so there are no files to change.
        for name, value in (("chat_template", plan.model.chat_template), ("pad_token", plan.model.pad_token)):
            if value is not None:
                arguments[name] = value
    generator = (config.get("callbacks") or {}).get("generate_callback")
    if plan.task_type == "CHAT_COMPLETION" and generator and generator.get("prompts"):
        generator["prompts"] = through_chat_template(generator["prompts"], tokenizer.get("name"), arguments)
    config["loggers"] = {**(config.get("loggers") or {}), "finetune": {}}
    return config


def export_only(trainer):
    """A run at its full duration is not trained again: `fit` would raise. Only the export is missing."""
    from composer.loggers import RemoteUploaderDownloader
    from llmfoundry.callbacks import HuggingFaceCheckpointer

    state = trainer.state
    exporter = next(c for c in state.callbacks if isinstance(c, HuggingFaceCheckpointer))
    exporter._save_checkpoint(state, trainer.logger, upload_to_save_folder=True, register_to_mlflow=False)
    for callback in state.callbacks:
        if isinstance(callback, RemoteUploaderDownloader):
            callback.wait_for_workers(state.device)


def run_engine(config, plan, context):
    """Train, or only export, and return the engine's trainer once everything is uploaded."""
    import composer  # noqa: F401  its import takes the signal handlers

    def on_signal(number, frame):
        context.stop.set()
        if context.trainer is None:
            # Nothing is trained and nothing is under way yet.
            os._exit(STOPPED)

    signal.signal(signal.SIGTERM, on_signal)
    # Ctrl-C reaches the whole group of a process started by hand; the supervisor passes it on as SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    config = prepare(config, plan)

    import llmfoundry.command_utils.train  # noqa: F401
    from composer import Trainer
    from llmfoundry import registry
    from omegaconf import OmegaConf

    from . import uploads
    from .observer import Observer
    from .tracker import PatientTracker, settle

    uploads.install(
        before_link=lambda: settle(context.trainer), on_checkpoint=lambda key: context.channel.send("checkpoint", wait=True, key=key),
    )

    if any(str(config.get(place)).startswith("gs://") for place in ("save_folder", "load_path")):
        uploads.ask_for_no_bucket()

    class RunObserver(Observer):
        """The engine's registry wants a class that it can make itself."""

        def __init__(self):
            super().__init__(context)

    # The name under which its state lies in checkpoints.
    RunObserver.__qualname__ = "RunObserver"
    registry.loggers.register("finetune", func=RunObserver)
    registry.loggers.register("mlflow", func=PatientTracker)
    module = sys.modules["llmfoundry.command_utils.train"]

    class RunTrainer(Trainer):
        def fit(self, *arguments, **named):
            context.trainer = self
            if self.state.timestamp >= self.state.max_duration:
                print(f"step {self.state.timestamp.batch.value} is the full duration: exporting only", flush=True)
                export_only(self)
            else:
                super().fit(*arguments, **named)

    module.Trainer = RunTrainer
    # No reference may put a credential from the environment into the configuration, which is logged.
    OmegaConf.clear_resolver("oc.env")
    return module.train(OmegaConf.create(each_text(config, for_engine)))


def close(trainer):
    """Flush what the engine's loggers and uploaders still hold; they log their errors and raise none."""
    if trainer is not None:
        trainer.engine.close()


def fail(error, channel, context, plan):
    """Tell the supervisor first: it ends this process when the clean-up takes too long."""
    code = exit_code(error)
    if isinstance(error, StopRequested):
        print(error, flush=True)
        channel.send("stopped", wait=True, saved=error.saved)
    else:
        if code == USER and context is not None and context.loading and context.resume_step:
            code = CHECKPOINT
        if isinstance(error, RunError):
            print(f"{type(error).__name__}: {error}", flush=True)
        else:
            traceback.print_exception(error)
        channel.send("failed", wait=True, code=code, exception=describe(error)[:2000])
    if context is not None and plan is not None:
        close(context.trainer)
        from .tracker import set_status

        set_status(plan, "KILLED" if isinstance(error, StopRequested) else "FAILED")
    leave(code)


def main(train_json):
    die_with_parent()
    channel = Channel.from_environment()
    plan = context = None
    try:
        plan = train_plan(train_json)
        config = engine_config(plan)
        context = Context(channel, config, int(os.environ.get(RESUME_STEP) or 0))
        trainer = run_engine(config, plan, context)
        close(trainer)
    except BaseException as error:
        fail(error, channel, context, plan)
    channel.send("finished", wait=True, step=trainer.state.timestamp.batch.value, metrics=context.metrics)
    leave(0)
