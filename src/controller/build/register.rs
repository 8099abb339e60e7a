//! The register stage: `register.json` and the CPU Job that reads it. Pure.

use k8s_openapi::api::core::v1::ResourceRequirements;
use serde::Serialize;

use super::job::{Terms, job};
use super::pod::{Shape, pod};
use super::{RunIdentity, Stage, Subject, config, json, quantities};
use crate::api::TaskType;
use crate::api::status::{Export, MlflowRun, Stage as StageName};

const DEADLINE_SECONDS: i64 = 2 * 3600;
const GIB: i64 = 1 << 30;
const MAX_SCRATCH_GIB: i64 = 65_536;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RegisterFile<'a> {
    version: u32,
    run: RunIdentity<'a>,
    hf_checkpoint: &'a str,
    task_type: TaskType,
    mlflow: Option<MlflowTarget<'a>>,
    name: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MlflowTarget<'a> {
    tracking_uri: &'a str,
    registry_uri: Option<&'a str>,
    experiment_id: &'a str,
    run_id: &'a str,
}

/// The registration's `number`-th try.
#[must_use]
pub fn register(subject: &Subject, number: i64, export: &Export, tracking: Option<&MlflowRun>) -> Stage {
    let metadata = subject.stage_metadata(StageName::Register, number);
    let file = RegisterFile {
        version: 1,
        run: subject.identity(),
        hf_checkpoint: &export.uri,
        task_type: subject.run.spec.task_type,
        mlflow: subject.resolved.tracking_uri.as_deref().zip(tracking).map(|(tracking_uri, run)| MlflowTarget {
            tracking_uri,
            // On Databricks a name of three parts belongs to Unity Catalog, elsewhere to the tracking server's own registry.
            registry_uri: (tracking_uri == "databricks").then_some("databricks-uc"),
            experiment_id: &run.experiment_id,
            run_id: &run.run_id,
        }),
        name: subject.resolved.register_to.as_deref(),
    };
    let scratch_gib = scratch_gib(export).unwrap_or(subject.size().scratch_gib);
    let runtime = &subject.snapshot.runtime;
    let shape = Shape {
        stage: StageName::Register,
        number,
        image: subject.resolved.image.clone(),
        pull_policy: runtime.image_pull_policy.map(|policy| format!("{policy:?}")),
        command: subject.runtime_command(),
        argument: "register",
        env: Vec::new(),
        attachments: Vec::new(),
        resources: ResourceRequirements {
            requests: Some(quantities([("cpu", "200m"), ("memory", "1Gi"), ("ephemeral-storage", &format!("{scratch_gib}Gi"))])),
            limits: Some(quantities([("memory", "4Gi")])),
            claims: None,
        },
        scratch_gib,
        grace_seconds: 30,
    };
    let template = pod(subject, shape, &subject.overrides());
    let terms = Terms { deadline_seconds: Some(DEADLINE_SECONDS), nodes: 1, queued: false };
    Stage { config: config(metadata.clone(), [("register.json", json(&file))]), job: job(subject.job_metadata(metadata), template, terms) }
}

/// The export is read to disk and copied into a model folder: two and a half times its size, and a little for the process.
fn scratch_gib(export: &Export) -> Option<i64> {
    let bytes = export.size_bytes.filter(|bytes| *bytes >= 0)?;
    Some((bytes.saturating_mul(5) / (2 * GIB) + 2).min(MAX_SCRATCH_GIB))
}
