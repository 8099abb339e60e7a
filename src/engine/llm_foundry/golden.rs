//! `tests/golden/engine/` has whole configurations. `UPDATE=1 cargo test --lib llm_foundry::golden` rewrites it.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use super::compile;
use super::sample::Sample;
use crate::controller::build::yaml;

fn mlflow() -> Value {
    json!({"mlflow": {"trackingUri": "http://mlflow.demo-services.svc:5000"}})
}

fn wandb() -> Value {
    json!({"wandb": {"project": "finetuning", "entity": "team-a"}})
}

fn both() -> Value {
    json!({"mlflow": mlflow()["mlflow"], "wandb": wandb()["wandb"]})
}

fn cases() -> Vec<(&'static str, Sample)> {
    let eval = "s3://data/eval.jsonl";
    let prompts = ["What is the capital of France?", "What does ${oc.env:HOME} mean?"];
    vec![
        ("instruction", Sample::new(&json!({}))),
        ("instruction-eval", Sample::new(&json!({"evalDataPath": eval, "trainingDuration": "3ep", "learningRate": 0.002}))),
        (
            "instruction-eval-prompts-mlflow",
            Sample::new(&json!({"evalDataPath": eval, "evalPrompts": prompts, "experimentTracker": mlflow(), "trainingDuration": "10ep"})),
        ),
        ("instruction-unpacked", Sample::new(&json!({"packing": false, "trainingDuration": "100ba", "seed": 1}))),
        (
            "instruction-custom-weights",
            Sample::new(&json!({"customWeightsPath": "s3://out/team-a/old/checkpoints/ep3-ba60-rank0.pt", "contextLength": 512})),
        ),
        ("instruction-tuned", Sample::tuned(&tuning(), &json!({"experimentTracker": mlflow()}))),
        ("chat", Sample::new(&json!({"taskType": "CHAT_COMPLETION"}))),
        (
            "chat-eval-prompts-wandb",
            Sample::new(&json!({"taskType": "CHAT_COMPLETION", "evalDataPath": eval, "evalPrompts": prompts, "experimentTracker": wandb()})),
        ),
        (
            "chat-custom-weights",
            Sample::new(&json!({"taskType": "CHAT_COMPLETION", "customWeightsPath": "s3://out/team-a/old/checkpoints/latest-rank0.pt.symlink"})),
        ),
        ("pretrain", Sample::new(&json!({"taskType": "CONTINUED_PRETRAIN", "trainDataPath": "s3://data/text", "trainingDuration": "1_000tok"}))),
        (
            "pretrain-eval-prompts-both-trackers",
            Sample::new(&json!({
                "taskType": "CONTINUED_PRETRAIN", "trainDataPath": "s3://data/text", "evalDataPath": "s3://data/more", "evalPrompts": prompts,
                "experimentTracker": both(), "trainingDuration": "2ep", "checkpointEvery": "20ba"
            })),
        ),
        (
            "pretrain-custom-weights",
            Sample::new(
                &json!({"taskType": "CONTINUED_PRETRAIN", "trainDataPath": "s3://data/text", "customWeightsPath": "s3://out/a/ep1-ba1-rank0.pt"}),
            ),
        ),
        ("one-gpu", Sample::on_gpus(1, 1, &json!({}))),
        (
            "eight-gpus-hub-revision",
            Sample::on_gpus(1, 8, &json!({"taskType": "CHAT_COMPLETION", "evalDataPath": eval, "experimentTracker": both(), "evalPrompts": prompts})),
        ),
        ("two-nodes-custom-weights-in-shards", Sample::on_gpus(2, 8, &json!({"customWeightsPath": "s3://out/team-a/old/checkpoints/ep1-ba20"}))),
        (
            "two-nodes-custom-weights-in-one-file",
            Sample::on_gpus(2, 8, &json!({"customWeightsPath": "s3://out/team-a/old/checkpoints/ep1-ba20-rank0.pt"})),
        ),
    ]
}

fn tuning() -> Value {
    json!({
        "optimizer": {"betas": [0.9, 0.99]}, "callbacks": {"lr_monitor": null, "kill_loss_spike": {"patience": 4}}, "dist_timeout": 60.0,
        "loggers": {"mlflow": {"log_system_metrics": true}, "wandb": {"tags": ["unused"]}}
    })
}

#[test]
fn configurations_are_what_the_files_say_and_there_are_no_others() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/engine");
    for (name, sample) in cases() {
        let (path, text) = (folder.join(format!("{name}.yaml")), yaml(&compile(&sample.training())));
        if std::env::var_os("UPDATE").is_some() {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&path, &text).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap_or_default(), text, "{name} is stale: UPDATE=1 cargo test --lib llm_foundry::golden");
    }
    let there: BTreeSet<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(there, cases().into_iter().map(|(name, _)| format!("{name}.yaml")).collect());
}

/// The files that the runtime's own tests train with, and the runs that they stand for.
#[test]
fn the_runtime_trains_with_what_the_compiler_writes() {
    let short = json!({"max_new_tokens": 12, "do_sample": false, "temperature": null, "top_k": null, "top_p": null});
    let prompts = ["What is the capital of France?", "Name the capital of Japan."];
    let tracker = json!({"mlflow": {"trackingUri": "http://mlflow:5000", "experimentPath": "/finetune/x"}});
    for (file, fields, differences) in [
        (
            "instruction-finetune",
            json!({
                "contextLength": 128, "trainingDuration": "3ep", "checkpointEvery": "1ep", "evalDataPath": "s3://data/eval.jsonl", "evalPrompts": prompts, "learningRate": 0.001,
                "experimentTracker": tracker
            }),
            json!({"train_loader": {"dataset": {"packing_ratio": 3.5}}, "callbacks": {"generate_callback": short}}),
        ),
        (
            "chat-completion",
            json!({
                "taskType": "CHAT_COMPLETION", "contextLength": 128, "trainingDuration": "20ba", "checkpointEvery": "5ba", "evalPrompts": prompts, "learningRate": 0.001,
                "experimentTracker": tracker, "packing": false
            }),
            json!({"train_loader": {"dataset": {"target_responses": "last"}}, "callbacks": {"generate_callback": {"interval": "5ba"}}}),
        ),
        (
            "continued-pretrain",
            json!({
                "taskType": "CONTINUED_PRETRAIN", "contextLength": 64, "trainingDuration": "8192tok", "evalDataPath": "s3://data/eval", "learningRate": 0.001,
                "trainDataPath": "s3://data/text", "experimentTracker": tracker
            }),
            json!({}),
        ),
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("runtimes/llm-foundry/tests/data/{file}.yaml"));
        let mut theirs: Value = serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let mut ours = compile(&Sample::new(&fields).training());
        let generation = ours.pointer_mut("/callbacks/generate_callback").and_then(Value::as_object_mut);
        let shortened = generation.map(|generation| {
            for (key, value) in short.as_object().unwrap() {
                let _ = if value.is_null() { generation.shift_remove(key) } else { generation.insert(key.clone(), value.clone()) };
            }
        });
        assert_eq!(shortened.is_some(), file != "continued-pretrain");
        overwrite(&mut theirs, &differences);
        assert_eq!(sorted(&ours), sorted(&theirs), "{file}");
    }
}

fn overwrite(value: &mut Value, with: &Value) {
    match with {
        Value::Null => {}
        Value::Object(children) => children.iter().filter(|(_, child)| !child.is_null()).for_each(|(key, child)| overwrite(&mut value[key], child)),
        other => *value = other.clone(),
    }
}

/// With sorted keys and one path on each line, so that a difference is one line.
fn sorted(value: &Value) -> Vec<String> {
    fn walk(path: &str, value: &Value, lines: &mut Vec<String>) {
        match value {
            Value::Object(children) if !children.is_empty() => children.iter().for_each(|(key, child)| walk(&format!("{path}.{key}"), child, lines)),
            other => lines.push(format!("{path}: {other}")),
        }
    }
    let mut lines = Vec::new();
    walk("", value, &mut lines);
    lines.sort();
    lines
}
