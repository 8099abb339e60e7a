//! Failures: whose turn it is, and what is needed to act.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::attempt::Stage;

/// Why something failed; it decides what happens next and whose turn it is.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureClass {
    /// The run asks for something that cannot work.
    UserError,
    /// The data are bad.
    DataError,
    /// A credential is missing or refused.
    CredentialError,
    /// Memory of the accelerator or the host did not suffice.
    OutOfMemory,
    /// The loss became useless.
    Diverged,
    /// Stopped for somebody else, or told to stop.
    Preempted,
    /// The node went away.
    NodeLost,
    /// Nothing was heard for too long.
    Stalled,
    /// A service, the network or the cluster failed.
    Infrastructure,
}

/// A failure, with what is needed to act on it.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// Whose turn it is.
    pub class: FailureClass,
    /// Stage it happened in.
    pub stage: Stage,
    /// One word.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// What failed, naming the field and the object.
    #[schemars(length(max = 1024))]
    pub message: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub hint: Option<String>,
    /// Exit code of the pod that decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 255))]
    pub exit_code: Option<i32>,
    /// First exception.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub exception: Option<String>,
    /// End of the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1600))]
    pub log_tail: Option<String>,
    /// Pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub pod: Option<String>,
    /// Attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub attempt: Option<i64>,
}
