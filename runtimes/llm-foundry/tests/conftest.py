"""Shared parts of the tests: an S3 server, an operator's report endpoint over TLS, and the plan of a run."""

import datetime
import http.client
import http.server
import ipaddress
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import uuid
from pathlib import Path
from urllib.parse import urlsplit

import pytest

HERE = Path(__file__).parent
RUNTIME = HERE.parent
sys.path[:0] = [str(RUNTIME), str(HERE)]

from exercise import Databricks, Server, Tokens, Volume  # noqa: E402

ACCESS_KEY, SECRET_KEY = "AKIATESTTESTTESTTEST", "not-a-secret-but-hidden-like-one"
TOKEN = "report-token-of-the-pod"


def wait_until(condition, seconds=30.0, what="the condition"):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"{what} did not come true within {seconds} s")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def end(process):
    """End a process that a test started, with its group."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


@pytest.fixture(scope="session")
def engine():
    """The Python of the engine's environment; made when it is not there yet."""
    path = os.environ.get("FINETUNE_ENGINE") or subprocess.run(
        [str(RUNTIME / "environment.sh")], check=True, capture_output=True, text=True,
    ).stdout.strip()
    return str(Path(path) / "bin/python")


@pytest.fixture(scope="session")
def s3_server():
    """A server that speaks S3: moto, in a process of its own."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    url = f"http://127.0.0.1:{port}"

    def up():
        try:
            return urllib.request.urlopen(f"{url}/moto-api/", timeout=1).status == 200
        except OSError:
            return False

    try:
        wait_until(up, what="the S3 server")
        yield url
    finally:
        end(process)


@pytest.fixture
def s3_environment(s3_server, monkeypatch):
    values = {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": s3_server, "S3_ENDPOINT_URL": s3_server,
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return values


@pytest.fixture
def bucket(s3_environment):
    """An empty bucket of this test's own."""
    from finetune_llmfoundry.store import S3

    found = S3(f"test-{uuid.uuid4().hex[:12]}")
    found.client.create_bucket(Bucket=found.name)
    return found


def google_key(folder, token_url):
    """The key of a service account, whose tokens come from the given place."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    pem = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption(),
    )
    path = Path(folder) / "google.json"
    path.write_text(json.dumps({
        "type": "service_account", "project_id": "project", "private_key_id": "1", "private_key": pem.decode(),
        "client_email": "trainer@project.example", "token_uri": token_url,
    }))
    return str(path)


@pytest.fixture(scope="session")
def google_server():
    """A server that speaks Google's storage protocol, in a process of its own."""
    port = free_port()
    command = [sys.executable, "-m", "gcp_storage_emulator", "start", "--host", "127.0.0.1", "--port", str(port), "--in-memory"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    url = f"http://127.0.0.1:{port}"

    def up():
        try:
            return urllib.request.urlopen(url, timeout=1).status == 200
        except OSError:
            return False

    try:
        wait_until(up, what="the storage emulator")
        yield url
    finally:
        end(process)


@pytest.fixture
def google_environment(google_server, tmp_path, monkeypatch):
    tokens = Server(Tokens)
    values = {"STORAGE_EMULATOR_HOST": google_server, "GOOGLE_APPLICATION_CREDENTIALS": google_key(tmp_path, tokens.url)}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    yield values
    tokens.shutdown()


@pytest.fixture
def google_bucket(google_environment):
    """An empty bucket of this test's own."""
    from finetune_llmfoundry.clouds import Google

    found = Google(f"test-{uuid.uuid4().hex[:12]}")
    found.client.create_bucket(found.name)
    return found


@pytest.fixture
def volume():
    """A volume of a workspace that is in this process, and what a pod needs to reach it."""
    server = Server(Databricks)
    yield Volume(server)
    server.shutdown()


class Gate:
    """Stands before a store: a test acts when a request has been served, before the client learns of it."""

    def __init__(self, server):
        self.served = lambda method, path, body: None
        self.paths = set()
        gate, target = self, urlsplit(server).netloc

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def forward(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                connection = http.client.HTTPConnection(target, timeout=60)
                connection.request(self.command, self.path, body, dict(self.headers))
                response = connection.getresponse()
                data = response.read()
                gate.paths.add(urlsplit(self.path).path)
                gate.served(self.command, self.path, body)
                self.send_response(response.status)
                for name, value in response.getheaders():
                    if name.lower() not in ("connection", "transfer-encoding", "date", "server"):
                        self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)
                connection.close()

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = forward

            def log_message(self, *arguments):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request, address):
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def gate(s3_server):
    found = Gate(s3_server)
    yield found
    found.close()


@pytest.fixture
def google_gate(google_server):
    found = Gate(google_server)
    yield found
    found.close()


def make_certificate(folder, name="localhost"):
    """A self-signed certificate for 127.0.0.1; it is its own CA."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    names = x509.SubjectAlternativeName([x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1)).add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True).sign(key, hashes.SHA256())
    )
    crt, pem = Path(folder) / "ca.crt", Path(folder) / "tls.key"
    crt.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    pem.write_bytes(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption(),
    ))
    return crt, pem


class Operator:
    """The report endpoint: keeps every body and answers what `answer` says."""

    def __init__(self, folder):
        self.bodies, self.tokens, self.answer = [], [], 204
        self.hold = threading.Event()
        self.hold.set()
        operator = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                operator.hold.wait(60)
                operator.tokens.append(self.headers["Authorization"])
                answer = operator.answer
                if answer < 400:
                    operator.bodies.append(json.loads(body))
                self.send_response(answer)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *arguments):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request, address):
                pass

        self.ca, key = make_certificate(folder)
        self.token = Path(folder) / "token"
        self.token.write_text(TOKEN)
        self.server = Server(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.ca, key)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self.server.server_port}/v1/namespaces/team-a/runs/my-run/report"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def environment(self):
        return {
            "FINETUNE_REPORT_URL": self.url, "FINETUNE_REPORT_CA": str(self.ca), "FINETUNE_REPORT_TOKEN": str(self.token),
        }

    def events(self):
        """Every event of every process, once, in the order in which they were made."""
        found = {}
        for body in self.bodies:
            for event in body["events"]:
                found[(body["start"], event["type"], event["time"])] = event
        return [event["type"] for event in sorted(found.values(), key=lambda event: event["time"])]

    def steps(self):
        return [body["progress"]["step"] for body in self.bodies if body.get("progress")]


@pytest.fixture
def operator(tmp_path):
    folder = tmp_path / "operator"
    folder.mkdir()
    found = Operator(folder)
    yield found
    found.hold.set()
    found.server.shutdown()
    found.server.server_close()


class Run:
    """One run of a test: its plan, its outputs and what its attempts leave behind."""

    def __init__(self, folder, bucket, environment, engine):
        self.folder, self.bucket, self.engine = Path(folder), bucket, engine
        self.outputs = bucket.uri("team-a/my-run")
        self.uid = str(uuid.uuid4())
        self.termination = self.folder / "termination-log"
        (self.folder / "scratch").mkdir(exist_ok=True)
        # Loaders make sockets there, whose paths may have 107 bytes; those of pytest are longer.
        self.temporary = tempfile.TemporaryDirectory(prefix="ft-")
        self.environment = {
            **os.environ, **environment, "PYTHONPATH": str(RUNTIME), "FINETUNE_TERMINATION_LOG": str(self.termination),
            "HOME": str(self.folder / "scratch/home"), "TMPDIR": self.temporary.name,
            "HF_HOME": str(self.folder / "scratch/hf"), "FINETUNE_RUN_UID": self.uid, "NODE_RANK": "0",
        }

    def plan(self, **changes):
        import yaml

        (self.folder / "engine.yaml").write_text(yaml.safe_dump(self.engine))
        plan = {
            "version": 1, "run": {"namespace": "team-a", "name": "my-run", "uid": self.uid}, "attempt": 0,
            "specHash": "abc", "engineConfig": str(self.folder / "engine.yaml"), "processesPerNode": 1, "nodes": 1,
            "model": {"weights": None, "revision": None, "local": str(self.folder / "scratch/model"),
                      "chatTemplate": None, "padToken": None},
            "outputs": self.outputs, "expectedCheckpoint": None, "taskType": "INSTRUCTION_FINETUNE", "evalPrompts": [],
            "mlflow": {}, "keepCheckpoints": 2, "graceSeconds": 30, **changes,
        }
        path = self.folder / "train.json"
        path.write_text(json.dumps(plan))
        return path

    def start(self, command, **changes):
        """Start an attempt; its output goes to a file."""
        plan = self.plan(**changes)
        self.termination.unlink(missing_ok=True)
        self.log = self.folder / f"log-{uuid.uuid4().hex[:6]}"
        with open(self.log, "wb") as log:
            return subprocess.Popen(
                command(plan), env=self.environment, stdout=log, stderr=subprocess.STDOUT, cwd=self.folder,
                start_new_session=True,
            )

    def finish(self, process, seconds):
        """The exit code and the termination message of an attempt."""
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            end(process)
            raise AssertionError(f"the attempt did not end within {seconds} s:\n{self.output()}") from None
        message = json.loads(self.termination.read_text()) if self.termination.exists() else None
        return code, message

    def output(self):
        return self.log.read_text(errors="replace")

    def keys(self):
        prefix = "team-a/my-run/"
        return sorted(key.removeprefix(prefix) for key, _ in self.bucket.list(prefix))

    def through(self, gate):
        """Its attempts reach their store through the gate only."""
        for name in {"AWS_ENDPOINT_URL", "S3_ENDPOINT_URL", "STORAGE_EMULATOR_HOST"} & self.environment.keys():
            self.environment[name] = gate.url

    def read(self, name):
        data = self.bucket.read(f"team-a/my-run/{name}")
        return None if data is None else data.decode()


def engine_yaml(run_folder, bucket, task):
    """One of the examples of engine.yaml with this test's places in it."""
    import yaml

    text = (HERE / "data" / f"{task}.yaml").read_text()
    text = text.replace("/scratch", f"{run_folder}/scratch").replace("s3://out", bucket.root)
    return yaml.safe_load(text)


@pytest.fixture
def run(tmp_path, bucket, s3_environment, operator):
    folder = tmp_path / "run"
    folder.mkdir()
    engine = engine_yaml(folder, bucket, "instruction-finetune")
    return Run(folder, bucket, {**s3_environment, **operator.environment()}, engine)
