//! `tests/golden/jobs/` has whole objects as they are sent. `UPDATE=1 cargo test --lib build::golden` rewrites it.

use std::path::Path;

use super::sample::{Sample, data, engine, export, tracking};
use super::{Converted, Stage, convert, preflight, register, service, tokenizer_folder, train};

fn documents(stage: &Stage) -> Vec<String> {
    vec![serde_saphyr::to_string(&stage.config).unwrap(), serde_saphyr::to_string(&stage.job).unwrap()]
}

fn check(file: &str, documents: &[String]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/jobs").join(file);
    let text = documents.join("---\n");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap_or_default(), text, "{file} is stale: UPDATE=1 cargo test --lib build::golden");
}

#[test]
fn a_preflight_sees_every_secret_and_place_of_the_run_and_needs_none_of_them_to_start() {
    check("preflight.yaml", &documents(&preflight(&Sample::full().subject(), 2, false, Converted::default())));
}

#[test]
fn tables_and_tokenizer_are_converted_without_an_accelerator_and_the_preflight_then_reads_what_was_made() {
    let mut sample = Sample::full();
    sample.edit_run(
        &serde_json::json!({"trainDataPath": "main.raw.rows", "evalDataPath": "s3://data/eval.jsonl", "dataPrepClusterId": "0101-cluster"}),
    );
    sample.resolved.weights = "pvc://models/llama".into();
    let folder = tokenizer_folder("s3://out/team-a/", "pvc://models/llama", Some("c0ffee"));
    let mut all = documents(&convert(&sample.subject(), 1, Converted { tables: false, tokenizer: Some(&folder) }));
    all.push(documents(&preflight(&sample.subject(), 1, true, Converted { tables: true, tokenizer: Some(&folder) })).swap_remove(0));
    check("convert.yaml", &all);
}

#[test]
fn a_small_run_trains_on_a_cpu() {
    check("train-cpu.yaml", &documents(&train(&Sample::new().subject(), 0, &data(), None, None, &engine())));
}

#[test]
fn a_queued_run_of_low_priority_trains_on_eight_gpus_with_the_runtimes_overrides() {
    let checkpoint = "s3://out/team-a/sample/checkpoints/ep0-ba10-rank0.pt";
    check("train-8-gpus.yaml", &documents(&train(&Sample::on_gpus(1).subject(), 1, &data(), Some(&tracking()), Some(checkpoint), &engine())));
}

#[test]
fn two_nodes_find_each_other_by_rank_and_the_first_decides_success() {
    let sample = Sample::on_gpus(2);
    let mut all = documents(&train(&sample.subject(), 1, &data(), Some(&tracking()), None, &engine()));
    all.push(serde_saphyr::to_string(&service(&sample.subject()).unwrap()).unwrap());
    check("train-2-nodes.yaml", &all);
    assert_eq!(service(&Sample::on_gpus(1).subject()), None);
}

#[test]
fn a_registration_has_room_for_the_export_and_no_accelerator() {
    check("register.yaml", &documents(&register(&Sample::on_gpus(1).subject(), 0, &export(), Some(&tracking()))));
}
