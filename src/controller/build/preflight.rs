//! The preflight stage: `plan.json` and the CPU Job that reads it.

use k8s_openapi::api::batch::v1::Job;

use super::{Stage, Subject, config};
use crate::api::status::Stage as StageName;

/// The preflight's `number`-th try.
#[must_use]
pub fn preflight(subject: &Subject, number: i64, convert_data: bool) -> Stage {
    let metadata = subject.stage_metadata(StageName::Preflight, number);
    let plan = serde_json::json!({"version": 1, "convertData": convert_data});
    Stage { config: config(metadata.clone(), [("plan.json", plan.to_string())]), job: Job { metadata, ..Job::default() } }
}
