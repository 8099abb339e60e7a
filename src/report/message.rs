//! `Report`: what a trainer said last, with every number and string within bounds; no client, no clock.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::api::status::{self, EventType, RunEvent};

/// Events that are kept of one post: the newest.
pub const EVENTS: usize = 32;
/// Checkpoints that are kept of one post: those with the most steps.
pub const CHECKPOINTS: usize = 16;
/// Evaluation metrics that are kept of one post.
pub const EVAL_METRICS: usize = 16;

/// The newest word of a trainer.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Attempt that the trainer believes to be.
    pub attempt: i64,
    /// Random id of the trainer process; on the Kubeflow route the uid of its pod.
    pub start: String,
    /// Counts the posts of one start; on the Kubeflow route the time of arrival in microseconds.
    pub sequence: i64,
    /// What a starting trainer waits for.
    pub waiting_for: Option<WaitingFor>,
    /// How far it is.
    pub progress: Progress,
    /// Events of this trainer process, oldest first.
    pub events: Vec<Event>,
    /// Complete checkpoints, fewest steps first.
    pub checkpoints: Vec<Checkpoint>,
}

/// What a starting trainer waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingFor {
    /// At most 32 lower-case letters, spaces and dashes.
    pub what: String,
    /// 0 to 100.
    pub percent: Option<i32>,
}

/// Numbers of a trainer: counts are from 0 to 2^53 - 1, others finite and at most 1e30 from zero.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// Percent of the duration where the trainer says so itself, 0 to 100.
    pub percent: Option<i32>,
    /// Optimizer steps done.
    pub step: Option<i64>,
    /// Optimizer steps in all.
    pub total_steps: Option<i64>,
    /// Current epoch, from 0.
    pub epoch: Option<i64>,
    /// Tokens seen.
    pub tokens: Option<i64>,
    /// Tokens in all, where the duration is in tokens.
    pub total_tokens: Option<i64>,
    /// Training loss.
    pub loss: Option<f64>,
    /// Learning rate.
    pub learning_rate: Option<f64>,
    /// Norm of the gradient.
    pub gradient_norm: Option<f64>,
    /// Throughput.
    pub tokens_per_second: Option<f64>,
    /// Newest evaluation metrics, at most 16.
    pub eval_metrics: BTreeMap<String, f64>,
    /// The trainer's own estimate, at most ten years.
    pub estimated_remaining_seconds: Option<i64>,
}

/// One of the four events that a trainer may post.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its type.
    pub type_: EventType,
    /// When it happened: what the trainer says, never after the operator heard of it first.
    pub time: Timestamp,
    /// When the trainer says it happened; with the type this identifies the event over many posts.
    pub sent: Timestamp,
}

impl Event {
    /// The event as the status lists it. The words are the operator's: text of a trainer may hold anything.
    #[must_use]
    pub fn to_status(&self, attempt: i64) -> RunEvent {
        let message = match self.type_ {
            EventType::ModelInitialized => "the model is loaded",
            EventType::TrainStarted => "training started",
            EventType::CheckpointSaved => "a checkpoint is complete",
            EventType::TrainFinished => "training finished; upload and export go on",
            _ => "",
        };
        RunEvent { type_: self.type_, time: Time(self.time), message: message.to_owned(), attempt: Some(attempt) }
    }
}

/// A complete checkpoint below the run's own outputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Optimizer steps in it.
    pub step: i64,
    /// Epoch it was made in.
    pub epoch: Option<i64>,
    /// When it was complete: what the trainer says, never after the operator heard of it first.
    pub time: Timestamp,
    /// Where it is.
    pub uri: String,
    /// Bytes.
    pub size_bytes: Option<i64>,
    /// What can load it.
    pub kind: CheckpointKind,
}

impl Checkpoint {
    /// The checkpoint as the status lists it; which one is newest is for the controller to say.
    #[must_use]
    pub fn to_status(&self) -> status::Checkpoint {
        status::Checkpoint {
            step: self.step,
            time: Time(self.time),
            uri: self.uri.clone(),
            size_bytes: self.size_bytes,
            kind: self.kind.as_str().to_owned(),
            newest: false,
        }
    }
}

/// What can load a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointKind {
    /// The engine, to go on training.
    Composer,
    /// Hugging Face libraries.
    Huggingface,
}

impl CheckpointKind {
    /// The name in the status.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Composer => "composer",
            Self::Huggingface => "huggingface",
        }
    }
}
