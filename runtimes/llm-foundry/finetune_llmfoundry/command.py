"""Runs what is not a training from its start to its verdict: the exit code and the termination message of a command."""

import os
import signal
import sys

from . import outcomes, termination
from .outcomes import describe, exit_code, failure_class
from .redact import Redactor
from .store import prepare_environment


class Told(SystemExit):
    """SIGTERM: PID 1 has no default action for it."""


def told(number, frame):
    raise Told()


def run(stage, work):
    """`work` returns what it adds to the message of a command that completed."""
    signal.signal(signal.SIGTERM, told)
    prepare_environment(os.environ)
    redact = Redactor()
    message = {
        "version": 1, "stage": stage, "runUid": os.environ.get("FINETUNE_RUN_UID", ""), "outcome": "failed",
        "class": None, "exception": None,
    }
    try:
        message.update(work())
        message["outcome"], code = "completed", outcomes.DONE
    except Told:
        message["outcome"], code = "stopped", outcomes.STOPPED
    except Exception as error:
        code = exit_code(error)
        message["exception"] = redact(describe(error))
        print(message["exception"], file=sys.stderr, flush=True)
    message["class"] = failure_class(code)
    termination.write(message)
    return code
