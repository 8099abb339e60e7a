//! What a run does now, and its events.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The services' event types.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum EventType {
    /// The run was seen first.
    Created,
    /// Credentials and places were proved.
    CheckPassed,
    /// A check failed.
    CheckFailed,
    /// The data were validated and converted.
    DataValidated,
    /// An attempt left the queue.
    Started,
    /// Weights are loaded.
    ModelInitialized,
    /// The training loop began.
    TrainStarted,
    /// A checkpoint is complete.
    CheckpointSaved,
    /// The training loop ended; upload and export go on.
    TrainFinished,
    /// The run finished.
    Completed,
    /// Stopped by a limit.
    Stopped,
    /// Stopped by a person.
    Canceled,
    /// Failed for good.
    Failed,
    /// The exception behind a failure.
    FailedException,
    /// A new attempt will be made.
    Requeued,
}

impl EventType {
    /// The services' spelling.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "CREATED",
            Self::CheckPassed => "CHECK_PASSED",
            Self::CheckFailed => "CHECK_FAILED",
            Self::DataValidated => "DATA_VALIDATED",
            Self::Started => "STARTED",
            Self::ModelInitialized => "MODEL_INITIALIZED",
            Self::TrainStarted => "TRAIN_STARTED",
            Self::CheckpointSaved => "CHECKPOINT_SAVED",
            Self::TrainFinished => "TRAIN_FINISHED",
            Self::Completed => "COMPLETED",
            Self::Stopped => "STOPPED",
            Self::Canceled => "CANCELED",
            Self::Failed => "FAILED",
            Self::FailedException => "FAILED_EXCEPTION",
            Self::Requeued => "REQUEUED",
        }
    }
}

/// Progress of the newest attempt. Numbers come from the trainer and are clamped.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// For tables: `42%`, or what a starting run waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub summary: Option<String>,
    /// Percent of the duration, 0 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub percent: Option<i32>,
    /// Remaining time, one unit: `40s`, `12min`, `3hr`, `2d`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub eta: Option<String>,
    /// What a starting attempt waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub waiting_for: Option<String>,
    /// Optimizer steps done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub step: Option<i64>,
    /// Optimizer steps in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub total_steps: Option<i64>,
    /// Current epoch, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub epoch: Option<i64>,
    /// Tokens seen, padding not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub tokens: Option<i64>,
    /// Tokens in all, where the duration is in tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub total_tokens: Option<i64>,
    /// Training loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// Learning rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// Norm of the gradient.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradient_norm: Option<f64>,
    /// Throughput.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_second: Option<f64>,
    /// Newest evaluation metrics.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub eval_metrics: BTreeMap<String, f64>,
    /// When the trainer was heard last, by the operator's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_heard_from: Option<Time>,
}

/// One of the services' events.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RunEvent {
    /// What happened.
    #[serde(rename = "type")]
    pub type_: EventType,
    /// When.
    pub time: Time,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub message: String,
    /// Attempt it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub attempt: Option<i64>,
}
