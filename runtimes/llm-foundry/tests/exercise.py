"""What every store must do, written once; and in-process servers of the stores that have no emulator.

`exercise.py oci|dbfs` runs in the engine's environment, with the real libraries of both, and prints what came out as JSON.
"""

import http.server
import json
import sys
import tempfile
import threading
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from finetune_llmfoundry.store import Store

FOLDER = "team-a/run"
EXPECTED = {
    "absent": [None, None],
    "read": "second",
    "size": 6,
    "empty": ["", 0],
    "bounded": 1 << 20,
    "below": [["checkpoints/ep0-ba1-rank0.pt", 3_000_000], ["checkpoints/latest-rank0.pt.symlink", 0], ["link", 6]],
    "beginning": ["checkpoints/latest-rank0.pt.symlink"],
    "nothing": [],
    "downloaded": [True, 3_000_000],
    "uploaded": 3_000_000,
    "deleted": ["link"],
}


def exercise(store, folder):
    """Do everything once below a folder of a store."""
    def names(prefix):
        return sorted([key.removeprefix(f"{folder}/"), size] for key, size in store.list(prefix))

    found = {"absent": [store.read(f"{folder}/none"), store.size(f"{folder}/none")]}
    store.write(f"{folder}/link", b"first")
    store.write(f"{folder}/link", b"second")
    store.write(f"{folder}/checkpoints/latest-rank0.pt.symlink", b"")
    big = bytes(range(256)) * 11718 + b"x" * 192
    checkpoint = f"{folder}/checkpoints/ep0-ba1-rank0.pt"
    store.write(checkpoint, big)
    found["read"], found["size"] = store.read(f"{folder}/link").decode(), store.size(f"{folder}/link")
    link = f"{folder}/checkpoints/latest-rank0.pt.symlink"
    found["empty"] = [store.read(link).decode(), store.size(link)]
    found["bounded"] = len(store.read(checkpoint))
    found["below"] = names(f"{folder}/")
    found["beginning"] = [name for name, _ in names(f"{folder}/checkpoints/latest-")]
    found["nothing"] = names(f"{folder}/nowhere/")
    told = []
    with tempfile.TemporaryDirectory() as local:
        store.download(checkpoint, Path(local) / "x", told.append)
        found["downloaded"] = [(Path(local) / "x").read_bytes() == big, sum(told)]
        store.upload(f"{folder}/again", Path(local) / "x")
        found["uploaded"] = store.size(f"{folder}/again")
    store.delete([checkpoint, f"{folder}/again", f"{folder}/checkpoints/latest-rank0.pt.symlink", f"{folder}/none"])
    found["deleted"] = [name for name, _ in names(f"{folder}/")]
    return found


class Server(http.server.ThreadingHTTPServer):
    """Objects in memory, spoken to in one dialect."""

    daemon_threads = True

    def __init__(self, dialect):
        super().__init__(("127.0.0.1", 0), dialect)
        self.objects = {}
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Dialect(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, body=b"", **headers):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        if "content_length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def serve(self):
        parts = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.handle_request(unquote(parts.path), query, self.rfile.read(length))

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = serve

    def log_message(self, *arguments):
        pass


class Oracle(Dialect):
    def handle_request(self, path, query, body):
        objects = self.server.objects
        if path == "/n":
            return self.answer(200, b'"space"', Content_Type="application/json")
        name = path.partition("/o/")[2]
        if not name:
            keys = sorted(key for key in objects if key.startswith(query.get("prefix", "")) and key >= query.get("start", ""))
            page = {"objects": [{"name": key, "size": len(objects[key])} for key in keys[:2]], "prefixes": []}
            if keys[2:]:
                page["nextStartWith"] = keys[2]
            return self.answer(200, page, Content_Type="application/json")
        if self.command == "PUT":
            objects[name] = body
            return self.answer(200)
        if name not in objects:
            return self.answer(404, {"code": "ObjectNotFound", "message": "no such object"}, Content_Type="application/json")
        if self.command == "DELETE":
            del objects[name]
            return self.answer(204)
        return self.answer(200, objects[name], **({"content_length": str(len(objects[name]))} if self.command == "HEAD" else {}))


class Databricks(Dialect):
    def handle_request(self, path, query, body):
        objects = self.server.objects
        missing = {"error_code": "NOT_FOUND", "message": "no such file"}
        if path.startswith("/api/2.0/fs/directories/"):
            folder = path.removeprefix("/api/2.0/fs/directories").rstrip("/") + "/"
            names = sorted({key.removeprefix(folder).partition("/")[::2] for key in objects if key.startswith(folder)})
            if not names:
                return self.answer(404, missing)
            entries = {}
            for name, rest in names:
                entry = {"path": folder + name, "name": name, "is_directory": bool(rest)}
                entries[name] = entry if rest else {**entry, "file_size": len(objects[folder + name])}
            return self.answer(200, {"contents": list(entries.values())})
        if path.startswith("/api/2.0/preview/scim/v2/Me"):
            return self.answer(200, {"userName": "trainer"})
        if not path.startswith("/api/2.0/fs/files/"):
            return self.answer(404, {"error_code": "ENDPOINT_NOT_FOUND", "message": path})
        name = path.removeprefix("/api/2.0/fs/files")
        if self.command == "PUT":
            objects[name] = body
            return self.answer(204)
        if name not in objects:
            return self.answer(404, missing)
        if self.command == "DELETE":
            del objects[name]
            return self.answer(204)
        kind = {"Content_Type": "application/octet-stream", "Last_Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
        return self.answer(200, objects[name], **kind, **({"content_length": str(len(objects[name]))} if self.command == "HEAD" else {}))


class Tokens(Dialect):
    """Where Google's library gets its tokens."""

    def handle_request(self, path, query, body):
        self.answer(200, {"access_token": "token", "expires_in": 3600, "token_type": "Bearer"}, Content_Type="application/json")


class Volume(Store):
    """The contents of a volume as the tests see them: keys are those below the volume."""

    root = "dbfs:/Volumes/main/models/out"

    def __init__(self, server):
        super().__init__("", server)
        self.environment = {"DATABRICKS_HOST": server.url, "DATABRICKS_TOKEN": "dapi-not-a-secret"}

    def path(self, key):
        return f"{self.root.removeprefix('dbfs:')}/{key}"

    def read(self, key):
        return self.client.objects.get(self.path(key))

    def write(self, key, data):
        self.client.objects[self.path(key)] = data

    def items(self, prefix):
        for path, data in sorted(self.client.objects.items()):
            if path.startswith(self.path(prefix)):
                yield path.removeprefix(self.path("")), len(data)

    def delete(self, keys):
        for key in keys:
            self.client.objects.pop(self.path(key), None)


def oracle():
    import oci
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    from finetune_llmfoundry.clouds import Oracle as Bucket

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption(),
    )
    config = {"user": "ocid1.user.oc1..a", "tenancy": "ocid1.tenancy.oc1..a", "fingerprint": "00:" * 15 + "00",
              "region": "us-ashburn-1", "key_content": key.decode()}
    client = oci.object_storage.ObjectStorageClient(config, service_endpoint=Server(Oracle).url)
    return exercise(Bucket("out", client), FOLDER)


def volumes():
    from databricks.sdk import WorkspaceClient

    from finetune_llmfoundry.clouds import Volumes

    return exercise(Volumes("", WorkspaceClient(host=Server(Databricks).url, token="x")), f"Volumes/main/models/out/{FOLDER}")


if __name__ == "__main__":
    print(json.dumps({"oci": oracle, "dbfs": volumes}[sys.argv[1]]()))
