//! Which of the engine's settings an admin may tune through a runtime, and how they are merged: pure.
//!
//! A configuration has three layers, the later winning: what the engine compiler sets unless told otherwise (`optimizer.betas`),
//! the runtime's `engineDefaults`, and what follows from the run, the model or the contract (`OWNED`, for example `optimizer.lr`),
//! which nothing overrides. Objects are merged key by key, everything else is replaced whole, and `null` removes what lies below.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Top-level settings that a runtime may tune, in whole or in part.
const TUNABLE: [&str; 28] = [
    "accumulate_train_batch_on_tokens",
    "algorithms",
    "callbacks",
    "code_paths",
    "compile_config",
    "console_log_interval",
    "cuda_load_lazy",
    "device_eval_batch_size",
    "dist_timeout",
    "eval_loader",
    "eval_subset_num_batches",
    "expandable_segments",
    "fsdp_config",
    "load_ignore_keys",
    "load_strict_model_weights",
    "log_config",
    "log_to_console",
    "loggers",
    "max_split_size_mb",
    "model",
    "optimizer",
    "progress_bar",
    "python_log_level",
    "save_ignore_keys",
    "scheduler",
    "spin_dataloaders",
    "tokenizer",
    "train_loader",
];

/// Settings below a tunable one that follow from the run, the model, its data or the contract.
const OWNED: [&str; 53] = [
    "callbacks.generate_callback",
    "callbacks.hf_checkpointer.huggingface_folder_name",
    "callbacks.hf_checkpointer.mlflow_registered_model_name",
    "callbacks.hf_checkpointer.overwrite",
    "callbacks.hf_checkpointer.save_folder",
    "callbacks.hf_checkpointer.save_interval",
    "eval_loader.dataset.decoder_only_format",
    "eval_loader.dataset.hf_name",
    "eval_loader.dataset.local",
    "eval_loader.dataset.max_seq_len",
    "eval_loader.dataset.num_canonical_nodes",
    "eval_loader.dataset.packing_ratio",
    "eval_loader.dataset.remote",
    "eval_loader.dataset.split",
    "eval_loader.dataset.streams",
    "eval_loader.dataset.target_prompts",
    "eval_loader.dataset.target_responses",
    "eval_loader.drop_last",
    "eval_loader.label",
    "eval_loader.name",
    "fsdp_config.state_dict_type",
    "loggers.mlflow.experiment_name",
    "loggers.mlflow.model_registry_prefix",
    "loggers.mlflow.model_registry_uri",
    "loggers.mlflow.resume",
    "loggers.mlflow.run_name",
    "loggers.mlflow.tracking_uri",
    "loggers.wandb.entity",
    "loggers.wandb.init_kwargs.id",
    "loggers.wandb.init_kwargs.resume",
    "loggers.wandb.name",
    "loggers.wandb.project",
    "model.init_device",
    "model.name",
    "model.pretrained",
    "model.pretrained_model_name_or_path",
    "model.trust_remote_code",
    "optimizer.lr",
    "tokenizer.kwargs.model_max_length",
    "tokenizer.kwargs.trust_remote_code",
    "tokenizer.name",
    "train_loader.dataset.decoder_only_format",
    "train_loader.dataset.hf_name",
    "train_loader.dataset.local",
    "train_loader.dataset.max_seq_len",
    "train_loader.dataset.num_canonical_nodes",
    "train_loader.dataset.packing_ratio",
    "train_loader.dataset.remote",
    "train_loader.dataset.shuffle_seed",
    "train_loader.dataset.target_prompts",
    "train_loader.dataset.target_responses",
    "train_loader.drop_last",
    "train_loader.name",
];

/// Sections that only some runs have; tuning never adds one to a run that has none.
const OPTIONAL: [&str; 4] = ["eval_loader", "fsdp_config", "loggers.mlflow", "loggers.wandb"];

/// Why `engine_defaults` cannot be used, as a sentence that names the first wrong setting.
pub(super) fn check(engine_defaults: &BTreeMap<String, Value>) -> Result<(), String> {
    for (key, value) in engine_defaults {
        if !TUNABLE.contains(&key.as_str()) {
            return Err(format!("{key} cannot be set there: it follows from the run and the model, or the engine has no such setting"));
        }
        check_below(key, value)?;
    }
    Ok(())
}

fn check_below(path: &str, value: &Value) -> Result<(), String> {
    if OWNED.contains(&path) {
        return Err(format!("{path} cannot be set there: it follows from the run and the model"));
    }
    match value {
        Value::Object(children) => children.iter().try_for_each(|(key, child)| check_below(&format!("{path}.{key}"), child)),
        _ if OWNED.iter().any(|owned| owned.strip_prefix(path).is_some_and(|rest| rest.starts_with('.'))) => {
            Err(format!("{path} must be a map: settings below it follow from the run and the model"))
        }
        _ => Ok(()),
    }
}

/// `compiled` with what `engine_defaults` tune in it.
pub(super) fn apply(mut compiled: Value, engine_defaults: &BTreeMap<String, Value>) -> Value {
    let untuned = compiled.clone();
    for (key, value) in engine_defaults.iter().filter(|(key, _)| TUNABLE.contains(&key.as_str())) {
        merge(&mut compiled, Value::Object(Map::from_iter([(key.clone(), value.clone())])));
    }
    for path in OWNED.iter().chain(&OPTIONAL) {
        match at(&untuned, path) {
            Some(value) if OWNED.contains(path) => put(&mut compiled, path, value.clone()),
            Some(_) => {}
            None => remove(&mut compiled, path),
        }
    }
    if at(&untuned, "loggers").is_none() && at(&compiled, "loggers").is_some_and(|loggers| loggers.as_object().is_none_or(Map::is_empty)) {
        remove(&mut compiled, "loggers");
    }
    compiled
}

fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                if value.is_null() {
                    base.shift_remove(&key);
                } else {
                    merge(base.entry(key).or_insert_with(|| Value::Object(Map::new())), value);
                }
            }
        }
        (base, over) => *base = over,
    }
}

fn at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(value, |value, key| value.get(key))
}

fn put(value: &mut Value, path: &str, new: Value) {
    let place = path.split('.').fold(value, |value, key| {
        if !value.is_object() {
            *value = Value::Object(Map::new());
        }
        &mut value[key]
    });
    *place = new;
}

fn remove(value: &mut Value, path: &str) {
    let (parents, key) = path.rsplit_once('.').unwrap_or(("", path));
    let parent = parents.split('.').filter(|key| !key.is_empty()).try_fold(value, |value, key| value.get_mut(key));
    if let Some(Value::Object(parent)) = parent {
        parent.shift_remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn defaults(value: Value) -> BTreeMap<String, Value> {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn maps_merge_everything_else_is_replaced_and_null_removes() {
        let compiled = json!({"optimizer": {"lr": 1, "betas": [0.9, 0.95]}, "callbacks": {"lr_monitor": {}, "speed_monitor": {"window_size": 10}}});
        let tuned = apply(
            compiled,
            &defaults(json!({"optimizer": {"betas": [0.9, 0.99], "eps": 1}, "callbacks": {"lr_monitor": null, "speed_monitor": {"window_size": 3}}})),
        );
        let expected = json!({"optimizer": {"lr": 1, "betas": [0.9, 0.99], "eps": 1}, "callbacks": {"speed_monitor": {"window_size": 3}}});
        assert_eq!(tuned, expected);
    }

    #[test]
    fn what_follows_from_the_run_wins_even_over_defaults_that_were_never_checked() {
        let compiled =
            json!({"max_duration": "1ep", "optimizer": {"lr": 1}, "train_loader": {"name": "finetuning", "dataset": {"remote": "s3://a"}}});
        let hostile = json!({"max_duration": "9ep", "optimizer": 3, "train_loader": {"name": "text", "dataset": {"remote": "s3://b", "hf_name": "x"}}, "loggers": {"mlflow": {"synchronous": true}}});
        assert_eq!(apply(compiled.clone(), &defaults(hostile)), compiled);
    }

    #[test]
    fn tuning_reaches_a_tracker_only_where_the_run_has_it() {
        let tuning = defaults(json!({"loggers": {"mlflow": {"log_system_metrics": true}, "inmemory": {}}}));
        let with = apply(json!({"loggers": {"mlflow": {"run_name": "r"}}}), &tuning);
        assert_eq!(with, json!({"loggers": {"mlflow": {"run_name": "r", "log_system_metrics": true}, "inmemory": {}}}));
        assert_eq!(apply(json!({}), &tuning), json!({"loggers": {"inmemory": {}}}));
    }

    #[test]
    fn a_map_whose_children_are_owned_cannot_be_replaced_or_removed() {
        for value in [json!({"callbacks": {"hf_checkpointer": null}}), json!({"optimizer": "adamw"}), json!({"train_loader": {"dataset": []}})] {
            assert!(check(&defaults(value.clone())).is_err_and(|why| why.contains("must be a map")), "{value}");
        }
    }
}
