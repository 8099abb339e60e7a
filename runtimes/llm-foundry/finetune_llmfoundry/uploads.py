"""Makes the engine upload from threads of the worker instead of processes of its own; changes names in two of its modules.

The engine spawns seven processes for its uploads, and each imports the whole engine first: half a minute and half a
gigabyte a process on a small machine. An upload waits for the network and hashes, which threads do as well. The engine's
`RemoteUploaderDownloader` has a switch for threads; its `RemoteUploader` has not, so its executors are replaced.
"""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import composer.callbacks.checkpoint_saver
import composer.loggers
import composer.loggers.remote_uploader_downloader
import composer.trainer.trainer
import composer.utils.remote_uploader
from composer.utils import dist

LINK_WAIT = 1.0


def thread_pool(max_workers, mp_context=None):
    return ThreadPoolExecutor(max_workers=max_workers, thread_name_prefix="upload")


# Only what `RemoteUploader` takes from `multiprocessing`: a context whose manager makes an event.
threads_as_processes = SimpleNamespace(
    get_context=lambda method: SimpleNamespace(Manager=lambda: SimpleNamespace(Event=threading.Event)),
    Event=threading.Event,
)


def write_no_probe(remote_backend, remote_file_name_to_test):
    """The engine's probe object lies at the root of the bucket, where a key for the save folder may not write.

    Preflight has proved that the save folder can be written.
    """


def ask_for_no_bucket():
    """The engine's store for Google reads the bucket's own record first, which a key that may only use objects must not."""
    from google.cloud.storage import Client

    Client.get_bucket = lambda self, name, **named: self.bucket(name)


def install(before_link, on_checkpoint):
    """`before_link` is called in the thread that uploads the link to a checkpoint, `on_checkpoint` with its key after that."""
    remote = composer.utils.remote_uploader
    upload = remote._upload_file_to_object_store

    def upload_in_order(**named):
        if named["remote_file_name"].endswith(".symlink"):
            before_link()
        return upload(**named)

    remote._upload_file_to_object_store = upload_in_order
    remote.ProcessPoolExecutor = thread_pool
    remote.multiprocessing = threads_as_processes
    remote.validate_credentials = write_no_probe
    composer.loggers.remote_uploader_downloader.validate_credentials = write_no_probe

    class Uploader(remote.RemoteUploader):
        def upload_file_async(self, remote_file_name, file_path, overwrite):
            future = super().upload_file_async(remote_file_name, file_path, overwrite)
            if remote_file_name.endswith(".symlink"):
                target = Path(file_path).read_text().strip()
                future.add_done_callback(lambda done: done.exception() is None and on_checkpoint(target))
            return future

    class UploaderDownloader(composer.loggers.RemoteUploaderDownloader):
        def __init__(self, *arguments, **named):
            super().__init__(*arguments, **{**named, "use_procs": False})

    class Saver(composer.callbacks.checkpoint_saver.CheckpointSaver):
        def __init__(self, *arguments, **named):
            super().__init__(*arguments, **named)
            # How often the engine looks whether an upload is there, before it writes the link.
            self._symlink_upload_wait_before_next_try_in_seconds = LINK_WAIT

        def _rotate_checkpoints(self, sharding_enabled=False):
            old = self.saved_checkpoints[:max(0, len(self.saved_checkpoints) - self.num_checkpoints_to_keep)]
            super()._rotate_checkpoints(sharding_enabled)
            # The engine deletes shards on the first node only, and the disks of the others fill up.
            if sharding_enabled and dist.get_local_rank() == 0 and dist.get_global_rank() != 0:
                for path in old:
                    shutil.rmtree(Path(path).parent, ignore_errors=True)

    composer.callbacks.checkpoint_saver.RemoteUploader = Uploader
    composer.loggers.RemoteUploaderDownloader = UploaderDownloader
    composer.trainer.trainer.CheckpointSaver = Saver
