"""Where an attempt starts from, what it may delete, and when a run counts as complete."""

import json

import pytest

from finetune_llmfoundry.checkpoints import Checkpoint, Outputs
from finetune_llmfoundry.outcomes import CheckpointUnusable, FolderOwnedByOther, Unavailable

FOLDER = "team-a/my-run"
LINK = "latest-rank0.pt.symlink"


@pytest.fixture
def outputs(bucket):
    return Outputs(bucket, f"s3://{bucket.name}/{FOLDER}", LINK)


def save(outputs, step, epoch=0, link=True, size=10):
    key = f"{FOLDER}/checkpoints/ep{epoch}-ba{step}-rank0.pt"
    outputs.store.write(key, b"c" * size)
    if link:
        outputs.store.write(outputs.link, key.encode())
    return key


def names(outputs):
    folder = f"{FOLDER}/checkpoints/"
    return sorted(key.removeprefix(folder) for key, _ in outputs.store.list(folder))


def test_an_empty_folder_starts_from_the_beginning(outputs):
    assert outputs.resume_from(None) is None


def test_an_upload_whose_link_never_came_is_no_checkpoint(outputs):
    save(outputs, 20, link=False)
    assert outputs.resume_from(None) is None


def test_the_linked_checkpoint_is_resumed_from(outputs):
    key = save(outputs, 20, epoch=1, size=33)
    assert outputs.resume_from(None) == Checkpoint(key, 1, 20, 33)
    assert outputs.resume_from(outputs.store.uri(key)) == Checkpoint(key, 1, 20, 33)


def test_a_newer_checkpoint_than_expected_is_resumed_from(outputs):
    old, new = save(outputs, 20), save(outputs, 40)
    assert outputs.resume_from(outputs.store.uri(old)).key == new


def test_a_lost_link_is_renewed_when_the_expected_checkpoint_is_there(outputs):
    key = save(outputs, 20, link=False)
    assert outputs.resume_from(outputs.store.uri(key)).key == key
    assert outputs.linked() == key


def test_an_older_link_is_renewed_when_the_expected_checkpoint_is_there(outputs):
    save(outputs, 20)
    key = save(outputs, 40, link=False)
    assert outputs.resume_from(outputs.store.uri(key)).step == 40


@pytest.mark.parametrize("linked", [None, 20])
def test_an_expected_checkpoint_that_is_gone_is_refused(outputs, linked):
    if linked:
        save(outputs, linked)
    with pytest.raises(CheckpointUnusable, match="neither it nor a newer checkpoint"):
        outputs.resume_from(outputs.store.uri(f"{FOLDER}/checkpoints/ep2-ba40-rank0.pt"))


def test_a_link_to_nothing_is_refused_even_when_nothing_is_expected(outputs):
    outputs.store.write(outputs.link, f"{FOLDER}/checkpoints/ep1-ba20-rank0.pt".encode())
    with pytest.raises(CheckpointUnusable, match="not a complete checkpoint"):
        outputs.resume_from(None)


@pytest.mark.parametrize("expected", [f"s3://other/{FOLDER}/checkpoints/ep0-ba1-rank0.pt", "s3://{bucket}/x/notes.txt"])
def test_an_expected_name_that_is_no_checkpoint_of_this_run_is_refused(outputs, expected):
    with pytest.raises(CheckpointUnusable, match="not the name of a checkpoint"):
        outputs.resume_from(expected.format(bucket=outputs.store.name))


def test_a_checkpoint_of_the_other_form_is_refused(outputs):
    outputs.store.write(f"{FOLDER}/checkpoints/latest-sharded-rank0.symlink", b"x")
    with pytest.raises(CheckpointUnusable, match="another form"):
        outputs.resume_from(None)


def test_a_folder_of_shards_is_complete_with_its_metadata(outputs):
    key = f"{FOLDER}/checkpoints/ep1-ba20"
    outputs.store.write(f"{key}/__0_0.distcp", b"x" * 100)
    outputs.store.write(outputs.link, key.encode())
    with pytest.raises(CheckpointUnusable):
        outputs.resume_from(None)
    outputs.store.write(f"{key}/.metadata", b"x" * 5)
    assert outputs.resume_from(None) == Checkpoint(key, 1, 20, 105)


def test_pruning_keeps_the_newest_and_what_is_not_linked_yet(outputs):
    for step in (10, 20, 30):
        save(outputs, step)
    save(outputs, 40, link=False)
    kept = [f"{FOLDER}/checkpoints/ep0-ba{step}-rank0.pt" for step in (20, 30)]
    assert outputs.prune(2, outputs.present()) == (kept, [f"{FOLDER}/checkpoints/ep0-ba10-rank0.pt"])
    assert names(outputs) == ["ep0-ba20-rank0.pt", "ep0-ba30-rank0.pt", "ep0-ba40-rank0.pt", LINK]
    assert outputs.prune(2, outputs.present()) == (kept, [])


def test_what_the_engine_may_still_look_for_is_not_deleted(outputs):
    keys = [save(outputs, step) for step in (10, 20, 30)]
    assert outputs.prune(1, {keys[0]}) == (keys[1:], keys[:1])


def test_pruning_without_a_link_deletes_nothing(outputs):
    save(outputs, 10, link=False)
    assert outputs.prune(1, outputs.present()) == ([], [])


def test_pruning_never_deletes_the_linked_checkpoint(outputs):
    save(outputs, 20, epoch=1)
    key = save(outputs, 20, epoch=0)
    outputs.prune(1, outputs.present())
    assert outputs.checkpoint(key) is not None


def test_a_folder_of_another_run_is_refused(outputs):
    outputs.check_owner("me")
    outputs.store.write(f"{FOLDER}/owner.json", json.dumps({"uid": "me"}).encode())
    outputs.check_owner("me")
    for other in ({"uid": "you"}, {}, []):
        outputs.store.write(f"{FOLDER}/owner.json", json.dumps(other).encode())
        with pytest.raises(FolderOwnedByOther):
            outputs.check_owner("me")


def test_only_a_marker_of_this_run_counts(outputs):
    assert outputs.marker("me") is None
    for text in (b"{", b"[]", b'{"uid": "you"}'):
        outputs.store.write(f"{FOLDER}/completed.json", text)
        assert outputs.marker("me") is None
    outputs.write_marker({"uid": "me", "step": 3})
    assert outputs.marker("me") == {"uid": "me", "step": 3}


def export(outputs, files):
    for name, data in files.items():
        outputs.store.write(f"{FOLDER}/hf_checkpoints/huggingface/ba9/{name}", data)


def test_an_export_is_whole_with_every_file_that_its_index_names(outputs):
    index = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}).encode()
    export(outputs, {"config.json": b"{}", "model.safetensors.index.json": index, "model-1.safetensors": b"12345"})
    with pytest.raises(Unavailable, match="lacks model-2.safetensors"):
        outputs.export(9)
    export(outputs, {"model-2.safetensors": b"123"})
    uri = f"s3://{outputs.store.name}/{FOLDER}/hf_checkpoints/huggingface/ba9"
    assert outputs.export(9) == (uri, 2 + len(index) + 5 + 3)


def test_an_export_without_weights_is_refused(outputs):
    export(outputs, {"config.json": b"{}"})
    with pytest.raises(Unavailable, match="lacks model.safetensors"):
        outputs.export(9)
