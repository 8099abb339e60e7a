//! Where and when a run trains: the knobs that stay open while it lives, and the size it asks for.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Priority of a run among others.
#[derive(Serialize, Deserialize, schemars::JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// The cluster's default.
    #[default]
    Auto,
    /// Below the default.
    Low,
    /// Below everything else.
    Lowest,
}

/// Scheduling knobs; all of them may change while the run lives.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Scheduling {
    /// auto, low or lowest. `low` and `lowest` are PriorityClasses of these names with the prefix `finetune-`.
    #[serde(default)]
    pub priority: Priority,

    /// How often a failure that is not the user's and not a lost node is tried again.
    #[serde(default = "max_retries")]
    #[schemars(range(min = 0, max = 100))]
    pub max_retries: i32,

    /// How often a preemption, an eviction or a lost node is tried again.
    #[serde(default = "max_preemptions")]
    #[schemars(range(min = 0, max = 10_000))]
    pub max_preemptions: i32,

    /// Hours from the first start of training over all attempts, after which the run is stopped with its checkpoint kept. Not set: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.01, max = 8760.0))]
    pub max_duration_hours: Option<f64>,

    /// Local queue (Kueue) that the training Job is put in. Takes effect at the next attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub queue: Option<String>,
}

fn max_retries() -> i32 {
    3
}

fn max_preemptions() -> i32 {
    100
}

impl Default for Scheduling {
    fn default() -> Self {
        Self { priority: Priority::Auto, max_retries: max_retries(), max_preemptions: max_preemptions(), max_duration_hours: None, queue: None }
    }
}

/// Size of a run, where it shall differ from the model's own table.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct ComputeRequest {
    /// Number of nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 512))]
    pub nodes: Option<i32>,

    /// GPUs on each node; 0 trains on the CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 64))]
    pub gpus_per_node: Option<i32>,

    /// Value of the node label that the runtime selects GPU types by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-zA-Z0-9]([-._a-zA-Z0-9]*[a-zA-Z0-9])?$"))]
    pub gpu_type: Option<String>,
}
