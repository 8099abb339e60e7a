//! What was chosen where the spec was silent.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What was chosen where the spec was silent, and what the model's and runtime's owners decided.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Resolved {
    /// FinetuneModel object.
    #[schemars(length(max = 253))]
    pub model: String,
    /// FinetuneRuntime object.
    #[schemars(length(max = 253))]
    pub runtime: String,
    /// Image of the train and register stages.
    #[schemars(length(max = 512))]
    pub image: String,
    /// Where the weights come from.
    #[schemars(length(max = 1024))]
    pub weights: String,
    /// Context length in tokens.
    #[schemars(range(min = 1))]
    pub context_length: i64,
    /// Training duration in the engine's spelling.
    #[schemars(length(max = 24))]
    pub training_duration: String,
    /// Interval of checkpoints, evaluations and prompts; absent until the data are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 24))]
    pub interval: Option<String>,
    /// Nodes.
    #[schemars(range(min = 1))]
    pub nodes: i32,
    /// GPUs on each node.
    #[schemars(range(min = 0))]
    pub gpus_per_node: i32,
    /// GPU type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub gpu_type: Option<String>,
    /// Samples in one optimizer step.
    #[schemars(range(min = 1))]
    pub global_batch_size: i64,
    /// Precision.
    #[schemars(length(max = 16))]
    pub precision: String,
    /// Name the model will be registered under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub register_to: Option<String>,
    /// Experiment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub experiment_path: Option<String>,
    /// Tracking server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub tracking_uri: Option<String>,
    /// S3 endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub s3_endpoint_url: Option<String>,
    /// S3 region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub s3_region: Option<String>,
    /// Names of the Secrets in use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 253)))]
    pub secrets: Vec<String>,
}
