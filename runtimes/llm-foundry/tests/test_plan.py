"""What a stage is told: refused when this runtime cannot keep it."""

import json

import pytest
import yaml

from finetune_llmfoundry import plan as plans
from finetune_llmfoundry.outcomes import ConfigRefused


@pytest.fixture
def read(run):
    """The engine's configuration as an attempt sees it, after changes."""
    def reader(change=None):
        if change:
            change(run.engine)
        return plans.engine_config(plans.train_plan(run.plan()))

    return reader


def test_what_every_attempt_needs_is_set(run, read):
    config = read(lambda engine: (engine.pop("autoresume"), engine.update(save_overwrite=False)))
    assert config == {**run.engine, "autoresume": True, "save_overwrite": True}


@pytest.mark.parametrize(("change", "words"), [
    (lambda e: e.update(save_folder="s3://other/checkpoints"), "save_folder must be s3://"),
    (lambda e: e["callbacks"]["hf_checkpointer"].update(save_folder="/tmp"), "hf_checkpointer.save_folder must be"),
    (lambda e: e["callbacks"].pop("hf_checkpointer"), "hf_checkpointer.save_folder must be"),
    (lambda e: e["callbacks"]["hf_checkpointer"].update(huggingface_folder_name="x"), "huggingface_folder_name"),
    (lambda e: e["callbacks"]["hf_checkpointer"].update(mlflow_registered_model_name="x"), "registration is a stage"),
    (lambda e: e.pop("run_name"), "run_name is missing"),
    (lambda e: e.update(save_filename="x"), "save_filename"),
    (lambda e: e.update(save_weights_only=True), "save_weights_only"),
])
def test_a_configuration_that_cannot_be_resumed_or_exported_is_refused(read, change, words):
    with pytest.raises(ConfigRefused, match=words):
        read(change)


def test_a_plan_that_is_missing_broken_or_of_another_version_is_refused(tmp_path):
    path = tmp_path / "train.json"
    with pytest.raises(ConfigRefused, match="cannot be read"):
        plans.train_plan(path)
    for text, words in (("{", "is not JSON"), ('{"version": 2}', "version 1"), ('{"version": 1}', "run is missing")):
        path.write_text(text)
        with pytest.raises(ConfigRefused, match=words):
            plans.train_plan(path)


def test_absent_and_null_mean_the_same(run):
    path = run.plan()
    value = json.loads(path.read_text())
    with_nulls = plans.train_plan(path)
    for name in ("expectedCheckpoint", "mlflow"):
        del value[name]
    for name in ("revision", "chatTemplate", "padToken", "weights"):
        del value["model"][name]
    path.write_text(json.dumps(value))
    assert plans.train_plan(path) == with_nulls


@pytest.mark.parametrize(("config", "world", "name"), [
    ({}, 1, "latest-rank0.pt.symlink"),
    ({"fsdp_config": {"state_dict_type": "sharded"}}, 1, "latest-rank0.pt.symlink"),
    ({"fsdp_config": {"state_dict_type": "sharded"}}, 8, "latest-sharded-rank0.symlink"),
    ({"fsdp_config": {"state_dict_type": "full"}}, 8, "latest-rank0.pt.symlink"),
    ({"save_latest_filename": "newest-{rank}"}, 1, "newest-0.symlink"),
])
def test_the_link_has_the_name_that_the_engine_gives_it(config, world, name):
    assert plans.latest_link(config, world) == name


@pytest.mark.parametrize(("text", "escaped"), [
    ("plain $5 {x}", "plain $5 {x}"),
    ("${oc.env:HOME}", "\\${oc.env:HOME}"),
    ("a\\${b}", "a\\\\\\${b}"),
    ("$${x}${y}", "$\\${x}\\${y}"),
])
def test_text_of_users_is_never_taken_for_a_reference(text, escaped):
    assert plans.literal(text) == escaped
    assert plans.plain(escaped) == text


def test_the_configuration_is_read_without_its_escapes(run, read):
    prompts = [r"a \${oc.env:HOME} b", "plain"]
    config = read(lambda engine: engine["callbacks"]["generate_callback"].update(prompts=prompts))
    assert config["callbacks"]["generate_callback"]["prompts"] == ["a ${oc.env:HOME} b", "plain"]
    assert plans.each_text({"x": [prompts[0], 1, None]}, plans.plain) == {"x": ["a ${oc.env:HOME} b", 1, None]}


def test_custom_weights_of_a_claim_are_where_it_is_mounted(read):
    assert read(lambda engine: engine.update(load_path="pvc://old/ep1-ba20"))["load_path"] == "/var/run/finetune/claims/old/ep1-ba20"


def test_the_examples_are_json_compatible_and_accepted(run, read):
    from conftest import HERE, engine_yaml

    for path in sorted((HERE / "data").glob("*.yaml")):
        run.engine = engine_yaml(run.folder, run.bucket, path.stem)
        assert json.loads(json.dumps(run.engine)) == yaml.safe_load(yaml.safe_dump(run.engine))
        assert read()["save_folder"] == f"{run.outputs}/checkpoints"
