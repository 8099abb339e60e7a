//! The engine compiler for LLM Foundry: a resolved run with its data becomes the engine's whole configuration. Pure and total.
//!
//! What the runtime expects of it stands in `runtimes/llm-foundry/README.md`; which of it an admin may tune, in `tuning`.

#[cfg(test)]
mod golden;
mod literal;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod sample;

use serde_json::{Map, Value, json};

use crate::api::model::ComputeSize;
use crate::api::status::{DataSet, DataStatus, Resolved};
use crate::api::{FinetuneModelSpec, FinetuneRunSpec, FinetuneRuntimeSpec, TaskType};

use super::duration::{self, Plan};
use super::resolve::world_size;
use super::tuning;
use literal::literal;

/// Where the runtime puts weights and tokenizer before the engine starts, whatever their source.
pub const MODEL: &str = "/scratch/model";

/// A run that is ready to train.
#[derive(Clone, Copy, Debug)]
pub struct Training<'a> {
    /// Name of the run.
    pub run: &'a str,
    /// Its uid.
    pub uid: &'a str,
    /// Its spec.
    pub spec: &'a FinetuneRunSpec,
    /// Its model.
    pub model: &'a FinetuneModelSpec,
    /// Its runtime.
    pub runtime: &'a FinetuneRuntimeSpec,
    /// What was chosen.
    pub resolved: &'a Resolved,
    /// What the preflight made of the data.
    pub data: &'a DataStatus,
}

/// The engine's configuration.
#[must_use]
pub fn compile(training: &Training) -> Value {
    let Training { run, spec, model, resolved, data, .. } = *training;
    let plan = duration::plan(spec, resolved, data);
    let size = model.size(spec.task_type, resolved.context_length);
    let microbatch = size.and_then(|size| size.microbatch_size);
    let on_gpus = resolved.gpus_per_node > 0;
    let mut config = Map::new();
    let mut set = |key: &str, value: Value| {
        config.insert(key.to_owned(), value);
    };
    set("run_name", json!(run));
    set("seed", json!(spec.seed));
    set("max_seq_len", json!(resolved.context_length));
    set("precision", json!(resolved.precision));
    set("max_duration", json!(plan.duration.to_string()));
    set("global_train_batch_size", json!(resolved.global_batch_size));
    set("device_train_microbatch_size", microbatch.map_or(json!("auto"), |size| json!(size)));
    set("device_eval_batch_size", json!(microbatch.unwrap_or(1)));
    set("dist_timeout", json!(if on_gpus { 1800.0 } else { 600.0 }));
    set("model", model_section(training));
    set("tokenizer", tokenizer(training));
    set("train_loader", train_loader(training, size));
    if let Some(eval) = &data.eval {
        set("eval_loader", eval_loader(training, eval, size));
    }
    set("optimizer", json!({"name": "decoupled_lionw", "lr": spec.learning_rate, "betas": [0.9, 0.95], "weight_decay": 0.0}));
    set("scheduler", json!({"name": "linear_decay_with_warmup", "t_warmup": "0.02dur", "alpha_f": 0.0}));
    set("algorithms", json!({"gradient_clipping": {"clipping_type": "norm", "clipping_threshold": 1.0}}));
    if let Some(fsdp) = fsdp(training) {
        set("fsdp_config", fsdp);
    }
    set("eval_interval", data.eval.as_ref().map_or(json!(0), |_| json!(plan.interval.to_string())));
    set("save_interval", json!(plan.interval.to_string()));
    set("save_folder", json!(literal(&format!("{}/checkpoints", outputs(training)))));
    set("save_overwrite", json!(true));
    // Copies on the node only: what stays in the store is the runtime's to keep, as train.json says.
    set("save_num_checkpoints_to_keep", json!(0));
    set("autoresume", json!(true));
    if let Some(weights) = &spec.custom_weights_path {
        set("load_path", json!(literal(weights)));
        set("load_weights_only", json!(true));
    }
    set("progress_bar", json!(false));
    set("log_to_console", json!(false));
    set("python_log_level", json!("info"));
    set("callbacks", callbacks(training, &plan));
    if let Some(loggers) = loggers(training) {
        set("loggers", loggers);
    }
    tuning::apply(Value::Object(config), &training.runtime.engine_defaults)
}

fn outputs(training: &Training) -> String {
    format!("{}/{}", training.spec.save_folder.trim_end_matches('/'), training.run)
}

/// More than one process with a GPU each: the model is sharded over all of them.
fn is_sharded(training: &Training) -> bool {
    let resolved = training.resolved;
    resolved.gpus_per_node > 0 && world_size(resolved.nodes, resolved.gpus_per_node) > 1
}

fn model_section(training: &Training) -> Value {
    let mut model = json!({
        "name": "hf_causal_lm",
        "pretrained_model_name_or_path": MODEL,
        "pretrained": true,
        "init_device": if is_sharded(training) { "mixed" } else { "cpu" },
        "trust_remote_code": training.model.trust_remote_code,
        "use_flash_attention_2": false,
    });
    if training.resolved.gpus_per_node > 0 {
        // The engine's default computes the whole attention matrix, whose memory grows with the square of the context.
        model["attn_implementation"] = json!("sdpa");
    }
    model
}

fn tokenizer(training: &Training) -> Value {
    let mut kwargs = json!({"model_max_length": training.resolved.context_length, "trust_remote_code": training.model.trust_remote_code});
    for (key, value) in [("pad_token", &training.model.pad_token), ("chat_template", &training.model.chat_template)] {
        if let Some(value) = value {
            kwargs[key] = json!(literal(value));
        }
    }
    json!({"name": MODEL, "kwargs": kwargs})
}

fn train_loader(training: &Training, size: Option<&ComputeSize>) -> Value {
    let Training { spec, resolved, data, .. } = *training;
    let rows = data.train.as_ref().map_or(0, |train| train.samples);
    let per_step = duration::rows_per_step(resolved.global_batch_size, world_size(resolved.nodes, resolved.gpus_per_node), data.packing_ratio);
    let mut dataset = dataset(training, data.train.as_ref(), "train");
    if spec.task_type != TaskType::ContinuedPretrain {
        // `auto` would profile the data on idle GPUs in every attempt.
        dataset["packing_ratio"] =
            if spec.packing { data.packing_ratio.map_or(Value::Null, |ratio| json!(duration::packing(Some(ratio)))) } else { Value::Null };
    }
    dataset["shuffle"] = json!(true);
    dataset["shuffle_seed"] = json!(spec.seed);
    // Fewer rows than one step takes would otherwise be no step at all.
    loader(training, &dataset, u64::try_from(rows).is_ok_and(|rows| rows >= per_step), size)
}

fn eval_loader(training: &Training, eval: &DataSet, size: Option<&ComputeSize>) -> Value {
    let mut dataset = dataset(training, Some(eval), "eval");
    dataset["shuffle"] = json!(false);
    loader(training, &dataset, false, size)
}

fn dataset(training: &Training, data: Option<&DataSet>, split: &str) -> Value {
    let mut dataset = json!({
        "remote": literal(data.map_or("", |data| &data.mds)),
        "local": format!("/scratch/mds/{split}"),
        "max_seq_len": training.resolved.context_length,
    });
    if training.spec.task_type != TaskType::ContinuedPretrain {
        dataset["decoder_only_format"] = json!(true);
        dataset["target_prompts"] = json!("none");
        dataset["target_responses"] = json!("last");
        dataset["packing_ratio"] = Value::Null;
        dataset["allow_pad_trimming"] = json!(false);
    }
    // Fixed, so that an attempt that goes on sees the rest of the same order.
    dataset["num_canonical_nodes"] = json!(training.resolved.nodes.max(1));
    dataset["download_retry"] = json!(5);
    dataset["download_timeout"] = json!(120);
    dataset
}

fn loader(training: &Training, dataset: &Value, drop_last: bool, size: Option<&ComputeSize>) -> Value {
    let gpus = training.resolved.gpus_per_node;
    // One process for each GPU and at most 8 more that read for it; the engine cannot do without a reader.
    #[allow(clippy::cast_possible_truncation)] // the clamp bounds it
    let workers = size.filter(|_| gpus > 0).map_or(1, |size| (size.cpus / f64::from(gpus) - 1.0).clamp(1.0, 8.0) as i64);
    json!({
        "name": if training.spec.task_type == TaskType::ContinuedPretrain { "text" } else { "finetuning" },
        "dataset": dataset,
        "drop_last": drop_last,
        "num_workers": workers,
        "pin_memory": gpus > 0,
    })
}

fn fsdp(training: &Training) -> Option<Value> {
    let whole = training.spec.custom_weights_path.as_deref().is_some_and(is_whole_checkpoint);
    is_sharded(training).then(|| {
        json!({
            "sharding_strategy": "FULL_SHARD",
            "mixed_precision": "PURE",
            "activation_checkpointing": true,
            "activation_checkpointing_reentrant": false,
            "activation_cpu_offload": false,
            "limit_all_gathers": true,
            // The engine loads a checkpoint only in the form that it would save.
            "state_dict_type": if whole { "full" } else { "sharded" },
        })
    })
}

/// Whether a checkpoint's path says that it is one file (`ep1-ba20-rank0.pt`, `latest-rank0.pt.symlink`), not a folder of shards.
#[must_use]
pub fn is_whole_checkpoint(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    [".pt", ".pt.symlink"].iter().any(|end| name.ends_with(end))
}

fn callbacks(training: &Training, plan: &Plan) -> Value {
    let mut callbacks = json!({"lr_monitor": {}, "speed_monitor": {"window_size": 10}});
    if training.resolved.gpus_per_node > 0 {
        callbacks["memory_monitor"] = json!({});
    }
    if let Some(prompts) = training.spec.eval_prompts.as_deref().filter(|prompts| !prompts.is_empty()) {
        callbacks["generate_callback"] = json!({
            "prompts": prompts.iter().map(|prompt| literal(prompt)).collect::<Vec<_>>(),
            "interval": plan.interval.to_string(),
            "batch_size": prompts.len(),
            "max_new_tokens": 100,
            "temperature": 1.0,
            "top_k": 50,
            "top_p": 0.95,
            "do_sample": true,
        });
    }
    callbacks["hf_checkpointer"] = json!({
        "save_folder": literal(&format!("{}/hf_checkpoints", outputs(training))),
        "save_interval": "1dur",
        "huggingface_folder_name": "ba{batch}",
        "precision": match training.resolved.precision.as_str() {
            "amp_bf16" => "bfloat16",
            "amp_fp16" => "float16",
            _ => "float32",
        },
        "overwrite": true,
    });
    callbacks
}

fn loggers(training: &Training) -> Option<Value> {
    let tracker = training.spec.experiment_tracker.as_ref()?;
    let mut loggers = Map::new();
    if tracker.mlflow.is_some() {
        // Which run of that experiment it is comes from the environment, the same for all attempts.
        let mlflow = json!({
            "experiment_name": training.resolved.experiment_path.as_deref().map(literal),
            "tracking_uri": training.resolved.tracking_uri.as_deref().map(literal),
            "run_name": training.run,
            "log_system_metrics": false,
            "synchronous": false,
        });
        loggers.insert("mlflow".to_owned(), mlflow);
    }
    if let Some(wandb) = &tracker.wandb {
        let wandb = json!({
            "project": literal(&wandb.project),
            "entity": literal(&wandb.entity),
            "name": training.run,
            "init_kwargs": {"id": training.uid, "resume": "allow"},
        });
        loggers.insert("wandb".to_owned(), wandb);
    }
    (!loggers.is_empty()).then_some(Value::Object(loggers))
}
