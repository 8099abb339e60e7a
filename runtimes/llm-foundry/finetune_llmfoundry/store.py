"""The object store that holds a run's outputs: reads, lists, writes and deletes objects below one bucket."""

import os
from pathlib import Path
from urllib.parse import urlsplit

from .outcomes import ConfigRefused

READ_LIMIT = 1 << 20
LIST_LIMIT = 100_000


def split(uri):
    """The bucket and the key of `s3://bucket/key`."""
    parts = urlsplit(uri)
    if parts.scheme != "s3" or not parts.netloc:
        raise ConfigRefused(f"{uri}: this runtime keeps a run's state in s3:// only")
    return parts.netloc, parts.path.strip("/")


class Bucket:
    """One S3 bucket. Absent objects are None; every other failure is botocore's own exception."""

    def __init__(self, name, client=None):
        self.name = name
        self.client = client or self.connect()

    @staticmethod
    def connect():
        import boto3
        from botocore.config import Config

        config = Config(connect_timeout=10, read_timeout=60, retries={"mode": "standard", "total_max_attempts": 5})
        endpoint = os.environ.get("S3_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT_URL") or None
        return boto3.session.Session().client("s3", endpoint_url=endpoint, config=config)

    def uri(self, key):
        return f"s3://{self.name}/{key}"

    def absent(self, error):
        response = error.response
        return (
            response.get("Error", {}).get("Code") in ("404", "NoSuchKey", "NotFound")
            or response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 404
        )

    def read(self, key):
        from botocore.exceptions import ClientError

        try:
            return self.client.get_object(Bucket=self.name, Key=key)["Body"].read(READ_LIMIT)
        except ClientError as error:
            if self.absent(error):
                return None
            raise

    def size(self, key):
        from botocore.exceptions import ClientError

        try:
            return self.client.head_object(Bucket=self.name, Key=key)["ContentLength"]
        except ClientError as error:
            if self.absent(error):
                return None
            raise

    def write(self, key, data):
        self.client.put_object(Bucket=self.name, Key=key, Body=data)

    def list(self, prefix):
        """Keys and sizes below a prefix."""
        found = []
        for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix):
            found += [(item["Key"], item["Size"]) for item in page.get("Contents", [])]
            if len(found) > LIST_LIMIT:
                raise ConfigRefused(f"more than {LIST_LIMIT} objects below {self.uri(prefix)}")
        return found

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
