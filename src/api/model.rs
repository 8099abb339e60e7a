//! `FinetuneModel`: one supported base model. The table of supported models is data that an admin edits, not code.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::run::TaskType;

/// One supported base model.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "finetune.dev",
    version = "v1alpha1",
    kind = "FinetuneModel",
    shortname = "ftm",
    category = "ml",
    derive = "PartialEq",
    doc = "One base model that runs may finetune.",
    selectable = ".spec.name",
    printcolumn(name = "Input name", type_ = "string", json_path = ".spec.name"),
    printcolumn(name = "Display name", type_ = "string", json_path = ".spec.displayName"),
    printcolumn(name = "Max context", type_ = "integer", json_path = ".spec.maxContextLength"),
    printcolumn(name = "Runtime", type_ = "string", json_path = ".spec.runtime"),
    printcolumn(name = "Gated", type_ = "boolean", json_path = ".spec.gated", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.defaultContextLength) || self.defaultContextLength <= self.maxContextLength").message("defaultContextLength must not exceed maxContextLength"))]
pub struct FinetuneModelSpec {
    /// What a run writes in `spec.model`. Unique among the models; of two with one name the older counts.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[a-zA-Z0-9][-._/a-zA-Z0-9]*$"))]
    pub name: String,

    /// Name for people.
    #[schemars(length(min = 1, max = 128))]
    pub display_name: String,

    /// Longest context in tokens that the model supports.
    #[schemars(range(min = 1, max = 16_777_216))]
    pub max_context_length: i64,

    /// Context length of runs that set none. Not set: the smaller of 8192 and the maximum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16_777_216))]
    pub default_context_length: Option<i64>,

    /// Where weights and tokenizer are: `hf://<entity>/<model>`, an object store folder, or `pvc://<claim>/<path>` in the run's namespace.
    #[schemars(length(min = 6, max = 1024), regex(pattern = r"^(hf|s3|gs|oci|az|pvc)://[^\s\x00-\x1f]+$"))]
    pub weights: String,

    /// Commit of a hub model. Not set: the newest, which a later run need not get.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[a-zA-Z0-9][-._a-zA-Z0-9]*$"))]
    pub revision: Option<String>,

    /// Chat template (Jinja) instead of the tokenizer's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32768))]
    pub chat_template: Option<String>,

    /// Padding token for a tokenizer that has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub pad_token: Option<String>,

    /// Runs code that comes with the weights. Only for weights that you have read.
    #[serde(default)]
    pub trust_remote_code: bool,

    /// Access must be granted on the hub before the weights can be read.
    #[serde(default)]
    pub gated: bool,

    /// Number of parameters, for the fit check.
    #[schemars(range(min = 1, max = 100_000_000_000_000_i64))]
    pub parameters: i64,

    /// Name of the FinetuneRuntime that trains it.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$"))]
    pub runtime: String,

    /// Sizes, the first that fits the run's task type and context length counts.
    #[schemars(length(min = 1, max = 16))]
    pub compute: Vec<ComputeSize>,
}

/// One row of a model's table of sizes.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ComputeSize {
    /// Task types it is for. Empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 3))]
    pub task_types: Vec<TaskType>,

    /// Longest context length it is for. Not set: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16_777_216))]
    pub max_context_length: Option<i64>,

    /// Nodes.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 512))]
    pub nodes: i32,

    /// GPUs a node; 0 trains on the CPU.
    #[schemars(range(min = 0, max = 64))]
    pub gpus_per_node: i32,

    /// Value of the runtime's GPU type label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-zA-Z0-9]([-._a-zA-Z0-9]*[a-zA-Z0-9])?$"))]
    pub gpu_type: Option<String>,

    /// Memory of one GPU in GiB, for the fit check. Not set: the check is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4096))]
    pub gpu_memory_gib: Option<i32>,

    /// Samples in one optimizer step over all GPUs; the same in every attempt and a multiple of the number of GPUs.
    #[schemars(range(min = 1, max = 65_536))]
    pub global_batch_size: i64,

    /// Samples a GPU computes at once. Not set: the engine finds it (`auto`), which needs a GPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_536))]
    pub microbatch_size: Option<i64>,

    /// Precision of the computation: amp_bf16, amp_fp16 or fp32.
    #[serde(default)]
    pub precision: Precision,

    /// CPUs a node, for example 8 or 0.5.
    #[serde(default = "eight")]
    #[schemars(range(min = 0.1, max = 1024.0))]
    pub cpus: f64,

    /// Memory a node in GiB.
    #[serde(default = "thirty_two")]
    #[schemars(range(min = 1, max = 32_768))]
    pub memory_gib: i32,

    /// Scratch disk a node in GiB, for weights, data and the export.
    #[serde(default = "thirty_two")]
    #[schemars(range(min = 1, max = 65_536))]
    pub scratch_gib: i32,
}

/// Precision of the computation.
#[derive(Serialize, Deserialize, schemars::JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// bfloat16 with fp32 master weights.
    #[default]
    AmpBf16,
    /// float16 with loss scaling.
    AmpFp16,
    /// float32, for CPUs.
    Fp32,
}

fn one() -> i32 {
    1
}

fn eight() -> f64 {
    8.0
}

fn thirty_two() -> i32 {
    32
}

impl FinetuneModelSpec {
    /// Context length of a run that sets none.
    #[must_use]
    pub fn context_length(&self) -> i64 {
        self.default_context_length.unwrap_or_else(|| self.max_context_length.min(8192))
    }

    /// The first size in the table that is for `task` at `context_length`.
    #[must_use]
    pub fn size(&self, task: TaskType, context_length: i64) -> Option<&ComputeSize> {
        self.compute.iter().find(|size| {
            (size.task_types.is_empty() || size.task_types.contains(&task)) && size.max_context_length.is_none_or(|max| context_length <= max)
        })
    }
}

#[cfg(test)]
impl FinetuneModelSpec {
    /// A CPU model for tests.
    pub(crate) fn sample() -> Self {
        serde_json::from_value(serde_json::json!({
            "name": "demo/tiny-llama", "displayName": "Tiny Llama", "maxContextLength": 512, "defaultContextLength": 256,
            "weights": "s3://models/tiny-llama", "parameters": 140_000, "runtime": "llm-foundry",
            "compute": [{"gpusPerNode": 0, "globalBatchSize": 8, "microbatchSize": 8, "precision": "fp32", "cpus": 1, "memoryGib": 4, "scratchGib": 4}]
        }))
        .unwrap()
    }
}
