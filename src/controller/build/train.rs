//! The train stage: `train.json`, the engine's configuration and the Job that holds the GPUs.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Service;

use super::{Stage, Subject, config};
use crate::api::names;
use crate::api::status::{DataStatus, MlflowRun, Stage as StageName};

/// Attempt `attempt` at training on `data`. With `expected_checkpoint` the trainer must go on from it or a newer one.
#[must_use]
pub fn train(
    subject: &Subject,
    attempt: i64,
    data: &DataStatus,
    tracking: Option<&MlflowRun>,
    expected_checkpoint: Option<&str>,
    engine_config: &serde_json::Value,
) -> Stage {
    let metadata = subject.stage_metadata(StageName::Train, attempt);
    let train = serde_json::json!({"version": 1, "data": data, "mlflow": tracking, "expectedCheckpoint": expected_checkpoint});
    let data = [("train.json", train.to_string()), ("engine.yaml", engine_config.to_string())];
    Stage { config: config(metadata.clone(), data), job: Job { metadata, ..Job::default() } }
}

/// The headless Service through which the nodes of a run of several nodes find the first; `None` for one node.
/// It is made before the Job.
#[must_use]
pub fn service(subject: &Subject) -> Option<Service> {
    let metadata = subject.metadata(format!("peers-{}", names::base(subject.name, subject.uid)), names::labels(subject.name, subject.uid));
    (subject.resolved.nodes > 1).then(|| Service { metadata, ..Service::default() })
}
