"""Every store does the same, each through its own library."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from conftest import RUNTIME
from exercise import EXPECTED, FOLDER, exercise

from finetune_llmfoundry.outcomes import ConfigRefused, exit_code
from finetune_llmfoundry.store import open_store, prepare_environment, split


@pytest.mark.parametrize("kind", ["bucket", "google_bucket"])
def test_a_store_reads_lists_writes_and_deletes(kind, request):
    store = request.getfixturevalue(kind)
    assert exercise(store, FOLDER) == EXPECTED
    found = open_store(store.uri(FOLDER))
    assert (found.root, split(store.uri(FOLDER))) == (store.root, (store.root, FOLDER))


@pytest.mark.parametrize("kind", ["oci", "dbfs"])
def test_a_store_without_an_emulator_does_the_same_with_its_library_and_a_server_in_memory(kind, engine):
    command = [engine, str(RUNTIME / "tests/exercise.py"), kind]
    found = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(RUNTIME)})
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout) == EXPECTED


@pytest.mark.parametrize(("uri", "root", "key"), [
    ("s3://b/a/c/", "s3://b", "a/c"), ("gs://b", "gs://b", ""), ("dbfs:/Volumes/c/s/v/f", "dbfs:", "Volumes/c/s/v/f"),
    ("/Volumes/c/s/v", "dbfs:", "Volumes/c/s/v"),
])
def test_a_place_has_a_root_and_a_key(uri, root, key):
    assert split(uri) == (root, key)


@pytest.mark.parametrize("uri", ["s3:///k", "dbfs:/FileStore/x", "dbfs://Volumes/c/s/v", "folder", "ftp://h/x"])
def test_a_place_that_is_none_is_refused_by_name(uri):
    with pytest.raises(ConfigRefused, match=uri):
        open_store(uri)


def test_a_google_bucket_that_is_not_there_is_the_users_mistake(google_bucket):
    from finetune_llmfoundry.clouds import Google

    with pytest.raises(Exception) as raised:
        Google("no-such-bucket").list("x/")
    assert exit_code(raised.value) == 10


def test_google_credentials_that_are_none_are_a_credential_error(google_environment, monkeypatch, tmp_path):
    (tmp_path / "empty.json").write_text("{}")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "empty.json"))
    with pytest.raises(Exception) as raised:
        open_store("gs://b/x")
    assert exit_code(raised.value) == 30


def test_the_key_of_oracle_is_found_where_it_is_mounted(tmp_path):
    (tmp_path / "config").write_text("[DEFAULT]\nuser=ocid1\nkey_file = ~/mine.pem\nregion=r\n")
    environment = {"HOME": str(tmp_path / "home"), "OCI_CLI_CONFIG_FILE": str(tmp_path / "config"), "OCI_CLI_KEY_FILE": "/mounted/key_file"}
    prepare_environment(environment)
    written = tmp_path / "home/.oci/config"
    assert environment["OCI_CONFIG_FILE"] == str(written)
    assert written.read_text() == "[DEFAULT]\nuser=ocid1\nkey_file=/mounted/key_file\nregion=r\n"
    assert written.stat().st_mode & 0o777 == 0o600
    # What is there once is left alone by the next stage of the same pod.
    prepare_environment(environment)
    assert written.read_text().count("key_file=/mounted/key_file") == 1
