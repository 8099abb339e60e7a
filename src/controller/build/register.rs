//! The register stage: `register.json` and the CPU Job that reads it.

use k8s_openapi::api::batch::v1::Job;

use super::{Stage, Subject, config};
use crate::api::status::{Export, MlflowRun, Stage as StageName};

/// The registration's `number`-th try.
#[must_use]
pub fn register(subject: &Subject, number: i64, export: &Export, tracking: Option<&MlflowRun>) -> Stage {
    let metadata = subject.stage_metadata(StageName::Register, number);
    let register = serde_json::json!({"version": 1, "hfCheckpoint": export.uri, "mlflow": tracking});
    Stage { config: config(metadata.clone(), [("register.json", register.to_string())]), job: Job { metadata, ..Job::default() } }
}
