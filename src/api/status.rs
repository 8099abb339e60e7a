//! `FinetuneRunStatus`: what the operator says of a run, and the little it must remember between two steps.

mod attempt;
mod data;
mod failure;
mod outputs;
mod progress;
mod resolved;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use attempt::{Attempt, CurrentJob, GpuHours, Retries, Stage};
pub use data::{DataSet, DataStatus};
pub use failure::{Failure, FailureClass};
pub use outputs::{Checkpoint, Export, MlflowRun, RegisteredModel, Tokenizer, Tracking};
pub use progress::{EventType, Progress, RunEvent};
pub use resolved::Resolved;

/// The services' statuses. Completed and Failed are sinks; Stopped goes on when `suspend` becomes false.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Accepted or not yet, being checked, or waiting for something that is missing.
    Pending,
    /// Training waits for resources.
    Queued,
    /// Training is being set up: image, weights, initialisation.
    Starting,
    /// Training, exporting or registering.
    Running,
    /// Being stopped.
    Terminating,
    /// Finished.
    Completed,
    /// Stopped by a person or by a limit, with its checkpoint kept.
    Stopped,
    /// Failed for good.
    Failed,
}

impl Phase {
    /// Whether nothing can change it any more.
    #[must_use]
    pub fn is_sink(self) -> bool {
        matches!(self, Self::Completed | Self::Failed)
    }
}

/// What the operator says of a run. At most 32 KiB.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct FinetuneRunStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,

    /// Summary of the conditions for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,

    /// Why it is in this phase, one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub reason: Option<String>,

    /// Why it is in this phase, for people, with what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,

    /// Accepted, PreflightPassed, DataReady, Trained, Registered, and Ready, Reconciling, Stalled for tools.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 12), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,

    /// Hash of the fixed part of the spec with the resolved model and runtime; set when the run is accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub spec_hash: Option<String>,

    /// What was chosen where the spec was silent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved: Option<Resolved>,

    /// The Job that is wanted now: written before the Job is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_job: Option<CurrentJob>,

    /// Jobs made and failures so far.
    #[serde(default)]
    pub retries: Retries,

    /// No Job is made before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt_at: Option<Time>,

    /// Whether the tables of the data are files below the save folder now.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tables_copied: bool,

    /// The tokenizer that is made for a model without `tokenizer.json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<Tokenizer>,

    /// Number of the newest training attempt, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub attempt: Option<i64>,

    /// First start of training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,

    /// When the run ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Time>,

    /// When training is expected to end; absent once training is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimated_end_time: Option<Time>,

    /// The newest attempt's progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,

    /// What the preflight found in the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<DataStatus>,

    /// The newest complete checkpoints, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub checkpoints: Vec<Checkpoint>,

    /// The Hugging Face export.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub export: Option<Export>,

    /// The last 16 attempts, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub attempts: Vec<Attempt>,

    /// GPU-hours of all attempts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_hours: Option<GpuHours>,

    /// The failure that ended the run, or the newest one that was tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,

    /// The registered model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registered_model: Option<RegisteredModel>,

    /// Where the run is logged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracking: Option<Tracking>,

    /// The services' events, oldest first, the newest 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub events: Vec<RunEvent>,
}
