"""What the report lists is what the folder holds."""

import pytest

from finetune_llmfoundry.checkpoints import Outputs
from finetune_llmfoundry.keeper import Keeper
from finetune_llmfoundry.report import Report

FOLDER = "team-a/my-run"


@pytest.fixture
def outputs(bucket):
    return Outputs(bucket, f"s3://{bucket.name}/{FOLDER}", "latest-rank0.pt.symlink")


def test_a_checkpoint_whose_link_was_left_out_is_listed_and_a_deleted_one_is_not(outputs):
    keys = {step: f"{FOLDER}/checkpoints/ep0-ba{step}-rank0.pt" for step in (18, 22, 27, 36)}
    for key in keys.values():
        outputs.store.write(key, b"checkpoint")
    outputs.store.write(outputs.link, keys[36].encode())
    report = Report(1)
    keeper = Keeper(outputs, report, 3, print)
    keeper.start()
    keeper.saved(keys[36])
    keeper.finish(30)
    listed = {checkpoint["step"]: (checkpoint["uri"], checkpoint["sizeBytes"]) for checkpoint in report.checkpoints}
    assert listed == {step: (outputs.store.uri(keys[step]), 10) for step in (22, 27, 36)}
    assert [event["type"] for event in report.events] == ["CHECKPOINT_SAVED"]
    assert {key for key, _ in outputs.store.list(f"{FOLDER}/checkpoints/ep")} == {keys[step] for step in (22, 27, 36)}
    assert (keeper.newest.key, keeper.newest.step) == (keys[36], 36)
