//! `Observed`: everything that one decision may rest on, as plain data.

use jiff::Timestamp;

use super::facts::{JobSeen, PodFacts};
use super::settings::Settings;
use super::snapshot::Snapshot;
use crate::api::defaults::NamespaceDefaults;
use crate::api::{FinetuneModelSpec, FinetuneRun, FinetuneRuntimeSpec};
use crate::report::store::Received;

/// Everything that one decision may rest on.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The run, read live.
    pub run: FinetuneRun,
    /// The operator's settings.
    pub settings: Settings,
    /// The time.
    pub now: Timestamp,
    /// CA of the report endpoint, in PEM.
    pub ca_pem: String,
    /// What the run can be resolved against; read only while it has no snapshot.
    pub catalogue: Option<Catalogue>,
    /// The run's snapshot.
    pub snapshot: SnapshotSeen,
    /// The run's `ServiceAccount`; read only before a Job is made.
    pub service_account: ServiceAccountSeen,
    /// What stands under the name of the wanted Job.
    pub job: JobSeen,
    /// Pods of the wanted Job.
    pub pods: Vec<PodFacts>,
    /// Newest report of the current attempt.
    pub report: Option<Received>,
}

/// What a run can be resolved against.
#[derive(Clone, Debug)]
pub struct Catalogue {
    /// Object name and spec of the wanted model.
    pub model: Option<(String, FinetuneModelSpec)>,
    /// Input names of all models.
    pub known_models: Vec<String>,
    /// Object name and spec of the model's runtime.
    pub runtime: Option<(String, FinetuneRuntimeSpec)>,
    /// The namespace's defaults, or what is wrong with them.
    pub defaults: Result<NamespaceDefaults, String>,
}

/// What stands under the name of the snapshot.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum SnapshotSeen {
    /// Nothing.
    #[default]
    Absent,
    /// An object that is not this run's, or that cannot be read.
    Unusable(String),
    /// The snapshot.
    Own(Box<Snapshot>),
}

/// What is known of a `ServiceAccount`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServiceAccountSeen {
    /// Not looked at.
    #[default]
    Unread,
    /// It does not exist.
    Absent,
    /// It exists; whether runs may use it.
    Present {
        /// The default one, or labelled for runs.
        allowed: bool,
    },
}
