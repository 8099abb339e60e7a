//! What holds for every run, not only for those of the golden files.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::compile;
use super::sample::Sample;
use crate::api::FinetuneRunSpec;
use crate::api::status::DataStatus;
use crate::engine::tuning;

/// Each path in `value` that leads to something other than a map with entries.
fn leaves(value: &Value) -> Vec<String> {
    match value {
        Value::Object(children) if !children.is_empty() => children
            .iter()
            .flat_map(|(key, child)| leaves(child).into_iter().map(move |path| if path.is_empty() { key.clone() } else { format!("{key}.{path}") }))
            .collect(),
        _ => vec![String::new()],
    }
}

fn everything() -> Sample {
    Sample::on_gpus(
        2,
        8,
        &json!({
            "evalDataPath": "s3://data/eval.jsonl", "evalPrompts": ["x"],
            "experimentTracker": {"mlflow": {"trackingUri": "http://mlflow.example.com"}, "wandb": {"project": "p", "entity": "e"}}
        }),
    )
}

#[test]
fn each_setting_is_either_the_admins_to_tune_or_refused_and_never_silently_ignored() {
    let sample = everything();
    let untuned = compile(&sample.training());
    let sentinel = json!("sentinel");
    for path in leaves(&untuned) {
        let nested = path.rsplit('.').fold(sentinel.clone(), |value, key| json!({key: value}));
        let engine_defaults: BTreeMap<String, Value> = serde_json::from_value(nested).unwrap();
        let accepted = tuning::check(&engine_defaults).is_ok();
        let mut tuned = sample.clone();
        tuned.runtime.engine_defaults = engine_defaults;
        let pointer = format!("/{}", path.replace('.', "/"));
        let got = compile(&tuned.training());
        let expected = if accepted { &sentinel } else { untuned.pointer(&pointer).unwrap() };
        assert_eq!(got.pointer(&pointer), Some(expected), "{path} is {}", if accepted { "accepted" } else { "refused" });
    }
}

#[test]
fn betas_are_the_admins_and_the_rate_is_the_users() {
    let sample = Sample::tuned(&json!({"optimizer": {"betas": [0.9, 0.99]}}), &json!({"learningRate": 0.25}));
    assert_eq!(compile(&sample.training())["optimizer"], json!({"name": "decoupled_lionw", "lr": 0.25, "betas": [0.9, 0.99], "weight_decay": 0.0}));
}

#[test]
fn fewer_rows_than_one_step_takes_still_make_a_step() {
    let mut sample = Sample::new(&json!({}));
    for (samples, drop_last) in [(28, true), (27, false), (0, false)] {
        sample.data.train.as_mut().unwrap().samples = samples;
        assert_eq!(compile(&sample.training())["train_loader"]["drop_last"], json!(drop_last), "{samples} rows");
    }
}

#[test]
fn no_interval_save_or_evaluation_disagree() {
    let sample = Sample::new(
        &json!({"evalDataPath": "s3://d/e.jsonl", "evalPrompts": ["x"], "experimentTracker": {"wandb": {"project": "p", "entity": "e"}}, "checkpointEvery": "7ba"}),
    );
    let config = compile(&sample.training());
    for pointer in ["/save_interval", "/eval_interval", "/callbacks/generate_callback/interval"] {
        assert_eq!(config.pointer(pointer), Some(&json!("7ba")), "{pointer}");
    }
}

proptest! {
    #[test]
    fn no_text_of_a_user_is_resolved_by_the_engine(text in r"[\\${}a-z:._]{1,40}") {
        let mut sample = everything();
        sample.spec.eval_prompts = Some(vec![text.clone()]);
        sample.spec.custom_weights_path = Some(text.clone());
        sample.resolved.experiment_path = Some(text.clone());
        sample.resolved.tracking_uri = Some(text.clone());
        sample.model.pad_token = Some(text.clone());
        sample.model.chat_template = Some(text.clone());
        sample.data.eval.as_mut().unwrap().mds.clone_from(&text);
        let tracker = sample.spec.experiment_tracker.as_mut().unwrap().wandb.as_mut().unwrap();
        tracker.project.clone_from(&text);
        tracker.entity.clone_from(&text);
        let written = compile(&sample.training()).to_string().replace("\\\\", "\\");
        for (at, _) in written.match_indices("${") {
            let backslashes = written[..at].bytes().rev().take_while(|byte| *byte == b'\\').count();
            prop_assert_eq!(backslashes % 2, 1, "{}", &written[at.saturating_sub(40)..]);
        }
    }

    #[test]
    fn compiling_never_panics(duration: String, every in proptest::option::of(".*"), context: i64, batch: i64, nodes: i32, gpus: i32, ratio: f64, samples: i64, cpus: i32) {
        let mut sample = everything();
        sample.spec = FinetuneRunSpec { training_duration: duration, checkpoint_every: every, ..sample.spec };
        (sample.resolved.context_length, sample.resolved.global_batch_size) = (context, batch);
        (sample.resolved.nodes, sample.resolved.gpus_per_node) = (nodes, gpus);
        sample.data.packing_ratio = Some(ratio);
        sample.data.train.as_mut().unwrap().samples = samples;
        sample.model.compute[0].cpus = cpus.into();
        prop_assert!(compile(&sample.training()).is_object());
        sample.data = DataStatus::default();
        prop_assert!(compile(&sample.training()).is_object());
    }
}
