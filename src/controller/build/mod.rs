//! Builds the Kubernetes objects of a run: pure, total and equal for equal input for ever; it reads no clock and no cluster.

mod attachment;
mod convert;
pub mod environment;
#[cfg(test)]
mod golden;
mod job;
pub mod overrides;
mod pod;
mod preflight;
#[cfg(test)]
mod properties;
mod register;
#[cfg(test)]
mod restricted;
#[cfg(test)]
mod sample;
mod secrets;
mod train;

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;
use serde::Serialize;

use self::overrides::PodOverrides;
use super::settings::Settings;
use super::snapshot::{self, Snapshot};
use crate::api::status::{Resolved, Stage as StageName};
use crate::api::{FinetuneRun, names};

pub use convert::{Converted, convert, is_table, tokenizer_folder};
pub use preflight::preflight;
pub use register::register;
#[cfg(test)]
pub(crate) use train::yaml;
pub use train::{service, train};

/// Key of the report endpoint's CA in its `ConfigMap`.
pub const CA_KEY: &str = "ca.crt";

/// Annotation of a Job with what it was built from.
const SPEC_HASH: &str = "finetune.dev/spec-hash";

/// The run that objects are built for.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The run.
    pub run: &'a FinetuneRun,
    /// Its name.
    pub name: &'a str,
    /// Its namespace, and that of every object.
    pub namespace: &'a str,
    /// Its uid.
    pub uid: &'a str,
    /// What a passed preflight is bound to.
    pub spec_hash: &'a str,
    /// What was chosen where the spec is silent.
    pub resolved: &'a Resolved,
    /// What the run was resolved against.
    pub snapshot: &'a Snapshot,
    /// What the chart tells the operator.
    pub settings: &'a Settings,
}

/// What one try at a stage consists of; both objects have one name, and the `ConfigMap` is made first.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// What the program of the stage reads.
    pub config: ConfigMap,
    /// The Job.
    pub job: Job,
}

/// The immutable `ConfigMap` that keeps model, runtime and Secret names as they were resolved.
#[must_use]
pub fn snapshot(subject: &Subject) -> ConfigMap {
    let metadata = subject.metadata(names::snapshot(subject.name, subject.uid), names::labels(subject.name, subject.uid));
    config(metadata, [(snapshot::KEY, json(subject.snapshot))])
}

/// The `ConfigMap` with the CA of the report endpoint. It may change while a trainer runs.
#[must_use]
pub fn ca(subject: &Subject, ca_pem: &str) -> ConfigMap {
    let metadata = subject.metadata(names::ca(subject.name, subject.uid), names::labels(subject.name, subject.uid));
    ConfigMap { immutable: None, ..config(metadata, [(CA_KEY, ca_pem.to_owned())]) }
}

/// The run, as the files of the stages name it.
#[derive(Serialize)]
struct RunIdentity<'a> {
    namespace: &'a str,
    name: &'a str,
    uid: &'a str,
}

/// What one node gets.
#[derive(Clone, Copy)]
struct Size {
    cpus: f64,
    memory_gib: i64,
    scratch_gib: i64,
}

impl Subject<'_> {
    fn metadata(&self, name: String, labels: BTreeMap<String, String>) -> ObjectMeta {
        ObjectMeta {
            name: Some(name),
            namespace: Some(self.namespace.to_owned()),
            labels: Some(labels),
            owner_references: Some(vec![OwnerReference {
                api_version: FinetuneRun::api_version(&()).into_owned(),
                kind: FinetuneRun::kind(&()).into_owned(),
                name: self.name.to_owned(),
                uid: self.uid.to_owned(),
                controller: Some(true),
                block_owner_deletion: None,
            }]),
            ..ObjectMeta::default()
        }
    }

    fn identity(&self) -> RunIdentity<'_> {
        RunIdentity { namespace: self.namespace, name: self.name, uid: self.uid }
    }

    /// Folder of everything that the run writes.
    fn outputs(&self) -> String {
        format!("{}/{}", self.run.spec.save_folder.trim_end_matches('/'), self.name)
    }

    /// Overrides that cannot be read are refused when the run is accepted, so that none are lost here.
    fn overrides(&self) -> PodOverrides {
        overrides::parse(&self.snapshot.runtime.pod_overrides).unwrap_or_default()
    }

    /// Program of the runtime, which gets the stage as its only argument.
    fn runtime_command(&self) -> Vec<String> {
        let command = &self.snapshot.runtime.command;
        if command.is_empty() { ["python", "-m", "finetune_llmfoundry"].map(str::to_owned).into() } else { command.clone() }
    }

    /// What a node of this run gets, by the model's table.
    fn size(&self) -> Size {
        let model = &self.snapshot.model;
        let row = model.size(self.run.spec.task_type, self.resolved.context_length).or(model.compute.first());
        let (cpus, memory, scratch) = row.map_or((8.0, 32, 32), |row| (row.cpus, row.memory_gib, row.scratch_gib));
        Size { cpus, memory_gib: memory.into(), scratch_gib: scratch.into() }
    }

    /// `metadata` of a stage's Job.
    fn job_metadata(&self, metadata: ObjectMeta) -> ObjectMeta {
        ObjectMeta { annotations: Some(labelled([(SPEC_HASH, self.spec_hash)])), ..metadata }
    }

    fn stage_metadata(&self, stage: StageName, number: i64) -> ObjectMeta {
        self.metadata(names::job(self.name, self.uid, stage, number), names::stage_labels(self.name, self.uid, stage, number))
    }
}

fn config<const N: usize>(metadata: ObjectMeta, data: [(&str, String); N]) -> ConfigMap {
    let data = data.map(|(key, value)| (key.to_owned(), value));
    ConfigMap { metadata, data: Some(data.into()), immutable: Some(true), ..ConfigMap::default() }
}

fn labelled<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

fn quantities<const N: usize>(amounts: [(&str, &str); N]) -> BTreeMap<String, Quantity> {
    amounts.map(|(name, amount)| (name.to_owned(), Quantity(amount.to_owned()))).into()
}

fn gib(amount: i64) -> Quantity {
    Quantity(format!("{amount}Gi"))
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}
