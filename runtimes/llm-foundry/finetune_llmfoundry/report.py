"""Posts what a run says of itself to the operator, from a thread of its own; reads the token and the CA at each post."""

import hashlib
import http.client
import json
import math
import secrets
import ssl
import threading
import time
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import urlsplit

EVENTS, CHECKPOINTS, METRICS = 32, 16, 16
TEXT_LIMIT = 256
BODY_LIMIT = 64 * 1024
TIMEOUT = 10.0
INTERVAL = 5.0
HEARTBEAT = 30.0
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def now():
    return datetime.now(timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z")


def finite(value):
    """JSON has no NaN and no infinity."""
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Report:
    """The cumulative report of one trainer process. Every method may be called from any thread and returns at once."""

    def __init__(self, attempt):
        self.attempt = attempt
        self.start = secrets.token_hex(8)
        self.lock = threading.Lock()
        self.changed = threading.Event()
        self.urgent = threading.Event()
        self.sequence = 0
        self.waiting = None
        self.progress = None
        self.events = []
        self.checkpoints = []

    def touch(self, urgent=False):
        self.changed.set()
        if urgent:
            self.urgent.set()

    def wait_for(self, what, percent=None):
        with self.lock:
            self.waiting = {"what": what, "percent": percent} if what else None
        self.touch()

    def set_progress(self, progress):
        progress = finite(progress)
        metrics = dict(list((progress.get("evalMetrics") or {}).items())[:METRICS])
        with self.lock:
            self.waiting = None
            self.progress = {**progress, "evalMetrics": metrics}
        self.touch()

    def add_event(self, kind, message, at=None):
        with self.lock:
            self.events = [*self.events, {"type": kind, "time": at or now(), "message": message[:TEXT_LIMIT]}][-EVENTS:]
        self.touch(urgent=True)

    def add_checkpoint(self, checkpoint):
        with self.lock:
            others = [c for c in self.checkpoints if c["uri"] != checkpoint["uri"]]
            self.checkpoints = [*others, checkpoint][-CHECKPOINTS:]
        self.touch(urgent=True)

    def drop_checkpoints(self, uris):
        with self.lock:
            self.checkpoints = [c for c in self.checkpoints if c["uri"] not in uris]
        self.touch()

    def body(self):
        with self.lock:
            self.sequence += 1
            body = {"attempt": self.attempt, "start": self.start, "sequence": self.sequence}
            if self.waiting:
                body["waitingFor"] = self.waiting
            if self.progress:
                body["progress"] = self.progress
            body["events"], body["checkpoints"] = list(self.events), list(self.checkpoints)
        data = json.dumps(body, separators=(",", ":"), allow_nan=False).encode()
        while len(data) > BODY_LIMIT and (body["checkpoints"] or body["events"]):
            body["checkpoints"], body["events"] = body["checkpoints"][1:], body["events"][1:]
            data = json.dumps(body, separators=(",", ":"), allow_nan=False).encode()
        return data


class Endpoint:
    """Where reports go. One connection a post: the certificate, the CA and the token may have changed since the last."""

    def __init__(self, url, ca, token, timeout=TIMEOUT):
        parts = urlsplit(url)
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
            raise ValueError("FINETUNE_REPORT_URL must start with https://")
        self.parts, self.ca, self.token, self.timeout = parts, ca, token, timeout

    def read_token(self):
        return Path(self.token).read_text().strip() if self.token else ""

    def post(self, token, data):
        """Post and return the status. No proxy: the operator is a Service of this cluster."""
        host, port = self.parts.hostname, self.parts.port
        if self.parts.scheme == "https":
            context = ssl.create_default_context(cafile=self.ca)
            connection = http.client.HTTPSConnection(host, port, timeout=self.timeout, context=context)
        else:
            connection = http.client.HTTPConnection(host, port, timeout=self.timeout)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
        try:
            connection.request("POST", self.parts.path or "/", body=data, headers=headers)
            return connection.getresponse().status
        finally:
            connection.close()


class Poster(threading.Thread):
    """Posts the newest report when it changed, at most every `interval` seconds unless something happened."""

    def __init__(self, report, endpoint, interval=INTERVAL, heartbeat=HEARTBEAT, log=print):
        super().__init__(name="reports", daemon=True)
        self.report, self.endpoint, self.interval, self.heartbeat, self.log = report, endpoint, interval, heartbeat, log
        self.over = threading.Event()
        self.ended = False
        self.refused_token = None
        self.said = None
        self.posting = threading.Lock()

    def run(self):
        while not self.over.is_set() and not self.ended:
            self.report.changed.wait(self.heartbeat)
            if self.over.is_set():
                return
            self.report.changed.clear()
            self.report.urgent.clear()
            self.post()
            self.report.urgent.wait(self.interval)

    def say(self, text):
        if text != self.said:
            self.said = text
            if text:
                self.log(f"report: {text}", flush=True)

    def post(self, patience=-1):
        """One try; whatever goes wrong is left for the next report, which says everything again."""
        if not self.posting.acquire(timeout=patience):
            return None
        try:
            if self.ended:
                return None
            try:
                token = self.endpoint.read_token()
                digest = hashlib.sha256(token.encode()).digest()
                if digest == self.refused_token:
                    return None
                status = self.endpoint.post(token, self.report.body())
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.say(f"not delivered ({type(error).__name__}), trying again with the next one")
                return None
            if status in (401, 403):
                self.refused_token = digest
                self.say(f"refused with {status}, waiting for a new token")
            elif status in (409, 410):
                self.ended = True
                self.say("another attempt is current" if status == 409 else "the run has ended")
            elif status >= 400:
                self.say(f"answered {status}, trying again with the next one")
            else:
                self.say(None)
            return status
        finally:
            self.posting.release()

    def finish(self, seconds):
        """Say the last word: tries until it is delivered, refused for good, or `seconds` are over."""
        self.over.set()
        self.report.touch(urgent=True)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self.ended:
            left = max(0.1, deadline - time.monotonic())
            self.endpoint.timeout = min(TIMEOUT, left)
            status = self.post(left)
            if status is not None and status < 400:
                return True
            time.sleep(min(0.5, max(0.0, deadline - time.monotonic())))
        return False
