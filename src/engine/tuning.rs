//! Which of the engine's settings an admin may tune through a runtime, and how they are merged: pure.
//!
//! A configuration has three layers, the later winning: what the engine compiler sets unless told otherwise (`optimizer.betas`),
//! the runtime's `engineDefaults`, and what follows from the run, the model or the contract (`optimizer.lr`), which nothing
//! overrides. Objects are merged key by key, everything else is replaced whole, and `null` removes what lies below.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Top-level settings that a runtime may tune, in whole or in part.
const TUNABLE: [&str; 33] = [
    "accumulate_train_batch_on_tokens", "algorithms", "autoresume", "callbacks", "code_paths", "compile_config", "console_log_interval", "cuda_load_lazy",
    "device_eval_batch_size", "dist_timeout", "eval_first", "eval_loader", "eval_subset_num_batches", "expandable_segments", "fsdp_config", "load_ignore_keys",
    "load_strict_model_weights", "log_config", "log_to_console", "loggers", "max_split_size_mb", "model", "optimizer", "profiler", "progress_bar", "python_log_level",
    "save_ignore_keys", "scheduler", "spin_dataloaders", "tokenizer", "tp_config", "train_loader", "train_subset_num_batches",
];

/// Settings below a tunable one that follow from the run, the model or the contract.
pub(super) const OWNED: [&str; 40] = [
    "autoresume",
    "callbacks.generate_callback",
    "callbacks.hf_checkpointer.overwrite",
    "callbacks.hf_checkpointer.save_folder",
    "callbacks.hf_checkpointer.save_interval",
    "callbacks.hf_checkpointer.mlflow_registered_model_name",
    "eval_loader.dataset.decoder_only_format",
    "eval_loader.dataset.hf_name",
    "eval_loader.dataset.local",
    "eval_loader.dataset.max_seq_len",
    "eval_loader.dataset.packing_ratio",
    "eval_loader.dataset.remote",
    "eval_loader.dataset.split",
    "eval_loader.dataset.streams",
    "eval_loader.label",
    "eval_loader.name",
    "loggers.mlflow.experiment_name",
    "loggers.mlflow.model_registry_prefix",
    "loggers.mlflow.model_registry_uri",
    "loggers.mlflow.resume",
    "loggers.mlflow.run_name",
    "loggers.mlflow.tracking_uri",
    "loggers.wandb.entity",
    "loggers.wandb.name",
    "loggers.wandb.project",
    "model.name",
    "model.pretrained",
    "model.pretrained_model_name_or_path",
    "model.revision",
    "model.trust_remote_code",
    "optimizer.lr",
    "tokenizer.name",
    "tokenizer.kwargs.model_max_length",
    "train_loader.dataset.decoder_only_format",
    "train_loader.dataset.hf_name",
    "train_loader.dataset.local",
    "train_loader.dataset.max_seq_len",
    "train_loader.dataset.packing_ratio",
    "train_loader.dataset.remote",
    "train_loader.name",
];

/// Why `engine_defaults` cannot be used, as a sentence that names the first wrong setting.
pub(super) fn check(engine_defaults: &BTreeMap<String, Value>) -> Result<(), String> {
    for (key, value) in engine_defaults {
        if !TUNABLE.contains(&key.as_str()) {
            return Err(format!("{key} cannot be set there: it follows from the run and the model, or the engine has no such setting"));
        }
        owned(key, value)?;
    }
    Ok(())
}

fn owned(path: &str, value: &Value) -> Result<(), String> {
    if OWNED.contains(&path) {
        return Err(format!("{path} cannot be set there: it follows from the run and the model"));
    }
    let below = || OWNED.iter().any(|owned| owned.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')));
    match value {
        Value::Object(children) => children.iter().try_for_each(|(key, child)| owned(&format!("{path}.{key}"), child)),
        _ if !path.contains('.') && below() => Err(format!("{path} must be a map")),
        _ => Ok(()),
    }
}

/// `over` on top of `base`.
pub(super) fn merge(base: &mut Value, over: Value) {
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
