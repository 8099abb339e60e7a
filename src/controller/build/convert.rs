//! The convert stage: `convert.json` and the CPU Job that copies tables to files below the save folder. Pure.

use k8s_openapi::api::core::v1::ResourceRequirements;
use serde::Serialize;

use super::job::{Terms, job};
use super::pod::{Shape, pod};
use super::{RunIdentity, Stage, Subject, config, json, quantities};
use crate::api::status::Stage as StageName;
use crate::preflight::place::Place;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ConvertFile<'a> {
    version: u32,
    run: RunIdentity<'a>,
    cluster_id: &'a str,
    tables: Vec<Table<'a>>,
}

#[derive(Serialize)]
struct Table<'a> {
    table: &'a str,
    to: String,
}

/// Whether a place of the run is a table, which only the runtime's own converter can read.
#[must_use]
pub fn is_table(place: &str) -> bool {
    matches!(Place::parse(place), Ok(Place::Table(_)))
}

/// The file that a table of the run is copied to; `data` is `train` or `eval`.
pub(super) fn copy(subject: &Subject, data: &str) -> String {
    format!("{}/tables/{data}.jsonl", subject.outputs())
}

/// The `number`-th try at copying the run's tables.
#[must_use]
pub fn convert(subject: &Subject, number: i64) -> Stage {
    let metadata = subject.stage_metadata(StageName::Convert, number);
    let spec = &subject.run.spec;
    let data = [("train", Some(spec.train_data_path.as_str())), ("eval", spec.eval_data_path.as_deref())];
    let tables = data.into_iter().filter_map(|(data, place)| {
        let table = place.filter(|place| is_table(place))?;
        Some(Table { table, to: copy(subject, data) })
    });
    let file = ConvertFile {
        version: 1,
        run: subject.identity(),
        cluster_id: spec.data_prep_cluster_id.as_deref().unwrap_or_default(),
        tables: tables.collect(),
    };
    let runtime = &subject.snapshot.runtime;
    let scratch_gib = subject.size().scratch_gib;
    let shape = Shape {
        stage: StageName::Convert,
        number,
        image: subject.resolved.image.clone(),
        pull_policy: runtime.image_pull_policy.map(|policy| format!("{policy:?}")),
        command: subject.runtime_command(),
        argument: "convert",
        env: Vec::new(),
        attachments: Vec::new(),
        resources: ResourceRequirements {
            requests: Some(quantities([("cpu", "500m"), ("memory", "2Gi"), ("ephemeral-storage", &format!("{scratch_gib}Gi"))])),
            limits: Some(quantities([("memory", "8Gi")])),
            claims: None,
        },
        scratch_gib,
        grace_seconds: 30,
    };
    let template = pod(subject, shape, &subject.overrides());
    let terms = Terms { deadline_seconds: Some(subject.settings.data_deadline_seconds.max(1)), nodes: 1, queued: false };
    Stage { config: config(metadata.clone(), [("convert.json", json(&file))]), job: job(subject.job_metadata(metadata), template, terms) }
}
