//! What was tried: the wanted Job, the attempts so far and what they cost.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::failure::Failure;

/// The stages of a run; `Convert` is there only for tables.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Credentials and data.
    Preflight,
    /// Copies tables to files.
    Convert,
    /// Training.
    Train,
    /// Registration.
    Register,
}

impl Stage {
    /// The name in labels and files.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Preflight => "preflight",
            Self::Convert => "convert",
            Self::Train => "train",
            Self::Register => "register",
        }
    }
}

/// The Job that is wanted now.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CurrentJob {
    /// Its stage.
    pub stage: Stage,
    /// Its number within the stage, from 0.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub number: i64,
    /// Its name.
    #[schemars(length(max = 63))]
    pub name: String,
    /// Its uid, once it was seen: a Job that was seen and is gone was deleted by somebody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub uid: Option<String>,
    /// When this intent was written.
    pub since: Time,
    /// Whether a preflight leaves the data alone because they were proved before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub checks_only: bool,
    /// Why it is given up; its Job is deleted next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given_up: Option<Box<Failure>>,
}

/// Jobs made and failures so far. The budget belongs to the run, not to a Job.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Retries {
    /// Preflight Jobs that were wanted so far: also the number of the next one.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub preflights: i64,
    /// Preflights in a row that did not pass and are tried again.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub preflight_failures: i64,
    /// Convert Jobs that were wanted so far: also the number of the next one.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub conversions: i64,
    /// Training failures that count against `scheduling.maxRetries`.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub failures: i64,
    /// Preemptions and lost nodes, which count against `scheduling.maxPreemptions`.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub preemptions: i64,
    /// Register Jobs that were wanted so far: also the number of the next one.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub registrations: i64,
}

// Most runs read no table, and their status does not speak of it.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// One attempt at training.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// From 0.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub number: i64,
    /// Its Job.
    #[schemars(length(max = 63))]
    pub job: String,
    /// Nodes it ran on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 253)))]
    pub nodes: Vec<String>,
    /// When its GPUs were taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When its GPUs were free again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Time>,
    /// How it ended, one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub reason: Option<String>,
    /// Exit code of the pod that decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 255))]
    pub exit_code: Option<i32>,
    /// GPU-hours.
    #[serde(default)]
    pub gpu_hours: f64,
    /// Step of the checkpoint it started from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub resumed_from_step: Option<i64>,
}

/// GPU-hours of all attempts.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct GpuHours {
    /// Used in all.
    pub used: f64,
    /// Of them spent on steps that no checkpoint kept.
    pub lost: f64,
}
