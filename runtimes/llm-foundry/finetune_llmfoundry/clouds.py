"""The stores besides S3 that the engine knows, each over its own library with the credentials that the pod has."""

import io
import os

from .store import CHUNK, READ_LIMIT, Store

TIMEOUTS = (10, 60)


class Counted(io.RawIOBase):
    """A file that tells how many bytes it got."""

    def __init__(self, file, progress):
        self.file, self.progress = file, progress

    def writable(self):
        return True

    def write(self, data):
        self.file.write(data)
        self.progress(len(data))
        return len(data)


class Google(Store):
    scheme = "gs"

    @staticmethod
    def connect():
        import google.auth
        from google.cloud.storage import Client

        credentials, project = google.auth.default()
        return Client(project=project or "none", credentials=credentials)

    def blob(self, key):
        return self.client.bucket(self.name).blob(key)

    def found(self, key):
        return self.client.bucket(self.name).get_blob(key, timeout=TIMEOUTS)

    def read(self, key):
        blob = self.found(key)
        if blob is None:
            return None
        return blob.download_as_bytes(end=READ_LIMIT - 1, timeout=TIMEOUTS) if blob.size else b""

    def size(self, key):
        blob = self.found(key)
        return None if blob is None else blob.size

    def write(self, key, data):
        from google.cloud.storage.retry import DEFAULT_RETRY

        self.blob(key).upload_from_string(data, content_type="application/octet-stream", timeout=TIMEOUTS, retry=DEFAULT_RETRY)

    def upload(self, key, path):
        from google.cloud.storage.retry import DEFAULT_RETRY

        self.blob(key).upload_from_filename(str(path), timeout=TIMEOUTS, retry=DEFAULT_RETRY)

    def items(self, prefix):
        for blob in self.client.list_blobs(self.name, prefix=prefix, fields="items(name,size),nextPageToken", timeout=TIMEOUTS):
            yield blob.name, blob.size

    def delete(self, keys):
        from google.api_core.exceptions import NotFound
        from google.cloud.storage.retry import DEFAULT_RETRY

        for key in keys:
            try:
                self.blob(key).delete(timeout=TIMEOUTS, retry=DEFAULT_RETRY)
            except NotFound:
                pass

    def download(self, key, path, progress):
        with open(path, "wb") as file:
            self.blob(key).download_to_file(Counted(file, progress), timeout=TIMEOUTS)


class Oracle(Store):
    scheme = "oci"

    def __init__(self, name, client=None):
        super().__init__(name, client)
        self.at = {"namespace_name": self.client.get_namespace().data, "bucket_name": name}

    @staticmethod
    def connect():
        import oci

        return oci.object_storage.ObjectStorageClient(
            oci.config.from_file(), retry_strategy=oci.retry.DEFAULT_RETRY_STRATEGY, timeout=TIMEOUTS,
        )

    def ask(self, operation, key):
        from oci.exceptions import ServiceError

        try:
            return operation(**self.at, object_name=key)
        except ServiceError as error:
            if error.status == 404 and error.code != "BucketNotFound":
                return None
            raise

    def read(self, key):
        found = self.ask(self.client.get_object, key)
        return found and found.data.raw.read(READ_LIMIT)

    def size(self, key):
        found = self.ask(self.client.head_object, key)
        return found and int(found.headers["content-length"])

    def write(self, key, data):
        self.client.put_object(**self.at, object_name=key, put_object_body=data)

    def upload(self, key, path):
        import oci

        oci.object_storage.UploadManager(self.client).upload_file(**self.at, object_name=key, file_path=str(path))

    def items(self, prefix):
        start = None
        while True:
            page = self.client.list_objects(**self.at, prefix=prefix, fields="name,size", **({"start": start} if start else {})).data
            for item in page.objects:
                yield item.name, item.size
            start = page.next_start_with
            if not start:
                return

    def delete(self, keys):
        for key in keys:
            self.ask(self.client.delete_object, key)

    def download(self, key, path, progress):
        found = self.client.get_object(**self.at, object_name=key)
        self.save(found.data.raw.stream(CHUNK, decode_content=False), path, progress)


class Volumes(Store):
    """All volumes of a workspace: catalog, schema and volume are part of the key. They hold folders, which stay when they are empty."""

    root = "dbfs:"

    @staticmethod
    def connect():
        from databricks.sdk import WorkspaceClient
        from databricks.sdk.core import Config

        return WorkspaceClient(config=Config(http_timeout_seconds=60, retry_timeout_seconds=120))

    def ask(self, operation, key):
        from databricks.sdk.errors import NotFound

        try:
            return operation(f"/{key}")
        except NotFound:
            return None

    def read(self, key):
        found = self.ask(self.client.files.download, key)
        if found is None:
            return None
        with found.contents as contents:
            return contents.read(READ_LIMIT)

    def size(self, key):
        found = self.ask(self.client.files.get_metadata, key)
        return found and int(found.content_length or 0)

    def write(self, key, data):
        self.client.files.upload(f"/{key}", io.BytesIO(data), overwrite=True)

    def upload(self, key, path):
        with open(path, "rb") as file:
            self.client.files.upload(f"/{key}", file, overwrite=True)

    def items(self, prefix):
        folders = [prefix.rpartition("/")[0]]
        while folders:
            for entry in self.ask(lambda path: list(self.client.files.list_directory_contents(path)), folders.pop()) or []:
                key = entry.path.lstrip("/")
                if entry.is_directory and (key.startswith(prefix) or prefix.startswith(f"{key}/")):
                    folders.append(key)
                elif not entry.is_directory and key.startswith(prefix):
                    yield key, entry.file_size or 0

    def delete(self, keys):
        for key in keys:
            self.ask(self.client.files.delete, key)

    def download(self, key, path, progress):
        with self.client.files.download(f"/{key}").contents as contents:
            self.save(iter(lambda: contents.read(CHUNK), b""), path, progress)


class Azure(Store):
    """Read only: the engine writes nothing there."""

    scheme = "az"

    def connect(self):
        from azure.storage.blob import BlobServiceClient

        account = os.environ.get("AZURE_STORAGE_ACCOUNT_NAME", "")
        key = os.environ.get("AZURE_STORAGE_ACCOUNT_KEY") or os.environ.get("AZURE_STORAGE_SAS_TOKEN")
        address = f"https://{account}.blob.core.windows.net"
        return BlobServiceClient(address, credential=key, connection_timeout=TIMEOUTS[0], read_timeout=TIMEOUTS[1])

    def items(self, prefix):
        for blob in self.client.get_container_client(self.name).list_blobs(name_starts_with=prefix):
            yield blob.name, blob.size

    def download(self, key, path, progress):
        self.save(self.client.get_blob_client(self.name, key).download_blob().chunks(), path, progress)
