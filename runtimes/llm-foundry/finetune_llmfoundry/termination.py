"""The termination message of a stage: built within its bounds, written to the file that the kubelet reads."""

import json
import os

LIMIT = 3500
EXCEPTION_LIMIT = 500
LOG_LIMIT = 1500
URI_LIMIT = 1200


def printable(text):
    return "".join(c for c in text if c == "\n" or c == "\t" or (c.isprintable() and c != "\ufffd"))


def head(text, limit):
    """The first `limit` bytes of a text, never half a character."""
    data = printable(text).encode()
    return data[:limit].decode(errors="ignore") if len(data) > limit else data.decode()


def tail(text, limit):
    data = printable(text).encode()
    return data[-limit:].decode(errors="ignore") if len(data) > limit else data.decode()


def encode(message):
    """The message as JSON of at most LIMIT bytes: the log gives way first, then the metrics, then the exception."""
    message = dict(message)
    if message.get("exception") is not None:
        message["exception"] = head(message["exception"], EXCEPTION_LIMIT)
    if message.get("logTail") is not None:
        message["logTail"] = tail(message["logTail"], LOG_LIMIT)
    while True:
        data = json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()
        if len(data) <= LIMIT:
            return data
        if message.get("logTail"):
            message["logTail"] = tail(message["logTail"], len(message["logTail"].encode()) * 3 // 4)
        elif message.get("metrics"):
            message["metrics"] = {}
        elif len(message.get("exception") or "") > 16:
            message["exception"] = head(message["exception"], len(message["exception"].encode()) // 2)
        else:
            raise ValueError("the message does not fit: its names are too long")


def write(message, path=None):
    path = path or os.environ.get("FINETUNE_TERMINATION_LOG", "/dev/termination-log")
    data = encode(message)
    try:
        with open(path, "wb") as file:
            file.write(data)
    except OSError as error:
        print(f"could not write the termination message to {path}: {error.strerror}", flush=True)
    return data
