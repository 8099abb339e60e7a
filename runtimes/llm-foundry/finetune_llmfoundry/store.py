"""The places that hold a run's outputs and its weights: reads, lists, writes and deletes objects in the stores that the engine knows."""

import os
from pathlib import Path
from urllib.parse import urlsplit

from .outcomes import ConfigRefused

READ_LIMIT = 1 << 20
LIST_LIMIT = 100_000
CHUNK = 1 << 20
VOLUMES = "dbfs:/Volumes/"


def split(uri):
    """The root and the key of a place: `s3://bucket` and `key`, or `dbfs:` and `Volumes/catalog/schema/volume/key`."""
    if uri.startswith("/Volumes/"):
        uri = f"dbfs:{uri}"
    parts = urlsplit(uri)
    if parts.scheme == "dbfs":
        key = parts.path.strip("/")
        if parts.netloc or not uri.startswith(VOLUMES) or len(key.split("/")) < 4:
            raise ConfigRefused(f"{uri}: of Databricks only volumes can be used: dbfs:/Volumes/catalog/schema/volume/folder")
        return "dbfs:", key
    if not parts.scheme or not parts.netloc:
        raise ConfigRefused(f"{uri} names no bucket: write scheme://bucket/path")
    return f"{parts.scheme}://{parts.netloc}", parts.path.strip("/")


def open_store(uri):
    """The store that a place lies in."""
    from . import clouds

    root = split(uri)[0]
    scheme, _, name = root.partition("://")
    kinds = {"s3": S3, "gs": clouds.Google, "oci": clouds.Oracle, "dbfs:": clouds.Volumes, "az": clouds.Azure}
    if scheme not in kinds:
        raise ConfigRefused(f"{uri}: this runtime knows s3://, gs://, oci://, az:// and dbfs:/Volumes/ only")
    return kinds[scheme](name)


class Store:
    """One bucket. Absent objects are None; every other failure is the library's own exception."""

    scheme = ""

    def __init__(self, name, client=None):
        self.name = name
        self.client = client or self.connect()

    @property
    def root(self):
        return f"{self.scheme}://{self.name}"

    def uri(self, key):
        return f"{self.root}/{key}"

    def list(self, prefix):
        """Keys and sizes below a prefix, which may end within a name."""
        found = []
        for item in self.items(prefix):
            found.append(item)
            if len(found) > LIST_LIMIT:
                raise ConfigRefused(f"more than {LIST_LIMIT} objects below {self.uri(prefix)}")
        return found

    def save(self, chunks, path, progress):
        with open(path, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
                progress(len(chunk))


class S3(Store):
    scheme = "s3"

    @staticmethod
    def connect():
        import boto3
        from botocore.config import Config

        config = Config(connect_timeout=10, read_timeout=60, retries={"mode": "standard", "total_max_attempts": 5})
        endpoint = os.environ.get("S3_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT_URL") or None
        return boto3.session.Session().client("s3", endpoint_url=endpoint, config=config)

    def ask(self, operation, key):
        from botocore.exceptions import ClientError

        try:
            return operation(Bucket=self.name, Key=key)
        except ClientError as error:
            response = error.response
            if (
                response.get("Error", {}).get("Code") in ("404", "NoSuchKey", "NotFound")
                or response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 404
            ):
                return None
            raise

    def read(self, key):
        found = self.ask(self.client.get_object, key)
        return found and found["Body"].read(READ_LIMIT)

    def size(self, key):
        found = self.ask(self.client.head_object, key)
        return found and found["ContentLength"]

    def write(self, key, data):
        self.client.put_object(Bucket=self.name, Key=key, Body=data)

    def upload(self, key, path):
        self.client.upload_file(str(path), self.name, key)

    def items(self, prefix):
        for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix):
            for item in page.get("Contents", []):
                yield item["Key"], item["Size"]

    def delete(self, keys):
        for key in keys:
            self.client.delete_object(Bucket=self.name, Key=key)

    def download(self, key, path, progress):
        self.client.download_file(self.name, key, str(path), Callback=progress)


def prepare_environment(environment):
    """What SDKs and the engine need of the environment: folders that exist, a user name, requests that all servers know."""
    for variable in ("HOME", "TMPDIR", "HF_HOME"):
        if environment.get(variable):
            Path(environment[variable]).mkdir(parents=True, exist_ok=True)
    # The pod's user has no entry in any passwd file, and libraries ask for its name.
    environment.setdefault("USER", "finetune")
    environment.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # Newer checksums of the SDK are not understood by every S3-compatible server; transfers are checked either way.
    environment.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    environment.setdefault("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")
    if environment.get("AWS_ENDPOINT_URL"):
        environment.setdefault("S3_ENDPOINT_URL", environment["AWS_ENDPOINT_URL"])
    project_oci(environment)


def project_oci(environment):
    """Oracle's library takes the path of the key from the file that names it, and the user's path is not that of the mount."""
    config, key = environment.get("OCI_CLI_CONFIG_FILE"), environment.get("OCI_CLI_KEY_FILE")
    if not (config and key and Path(config).exists()):
        return
    lines = Path(config).read_text().splitlines()
    lines = [f"key_file={key}" if line.partition("=")[0].strip() == "key_file" else line for line in lines]
    path = Path(environment.get("HOME") or ".") / ".oci/config"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text("\n".join(lines) + "\n")
    environment["OCI_CONFIG_FILE"] = str(path)
