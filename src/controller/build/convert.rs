//! The convert stage: `convert.json` and the CPU Job that makes, below the save folder, what preflight can read: files of tables,
//! and a tokenizer of a model that has only the older files. Pure.

use k8s_openapi::api::core::v1::ResourceRequirements;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::job::{Terms, job};
use super::pod::{Shape, pod};
use super::{RunIdentity, Stage, Subject, attachment, config, json, quantities};
use crate::api::names;
use crate::api::status::Stage as StageName;
use crate::preflight::place::Place;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ConvertFile<'a> {
    version: u32,
    run: RunIdentity<'a>,
    cluster_id: Option<&'a str>,
    tables: Vec<Table<'a>>,
    tokenizer: Option<Tokenizer<'a>>,
}

#[derive(Serialize)]
struct Tokenizer<'a> {
    from: &'a str,
    revision: Option<&'a str>,
    to: &'a str,
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

/// What was made already.
#[derive(Clone, Copy, Debug, Default)]
pub struct Converted<'a> {
    /// The run's tables are files.
    pub tables: bool,
    /// Folder of the tokenizer, whether it was made or is to be.
    pub tokenizer: Option<&'a str>,
}

/// Folder of the tokenizer that is made for the run's model: the same for all runs on these weights below this save folder.
#[must_use]
pub fn tokenizer_folder(save_folder: &str, weights: &str, revision: Option<&str>) -> String {
    let digest = names::hex(&Sha256::digest(format!("{weights}\0{}", revision.unwrap_or_default())));
    format!("{}/tokenizers/{}", save_folder.trim_end_matches('/'), &digest[..16])
}

/// The `number`-th try at making what is missing.
#[must_use]
pub fn convert(subject: &Subject, number: i64, made: Converted<'_>) -> Stage {
    let metadata = subject.stage_metadata(StageName::Convert, number);
    let spec = &subject.run.spec;
    let data = [("train", Some(spec.train_data_path.as_str())), ("eval", spec.eval_data_path.as_deref())];
    let tables = data.into_iter().filter_map(|(data, place)| {
        let table = place.filter(|place| !made.tables && is_table(place))?;
        Some(Table { table, to: copy(subject, data) })
    });
    let file = ConvertFile {
        version: 1,
        run: subject.identity(),
        cluster_id: spec.data_prep_cluster_id.as_deref(),
        tables: tables.collect(),
        tokenizer: made.tokenizer.map(|to| Tokenizer { from: &subject.resolved.weights, revision: subject.snapshot.model.revision.as_deref(), to }),
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
        attachments: attachment::claims(made.tokenizer.map(|_| subject.resolved.weights.as_str()).into_iter()),
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
