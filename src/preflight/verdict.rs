//! The verdict of preflight: what it says and which exit code it means; pure, no I/O.
//!
//! Preflight writes it as its termination message and the operator reads it back from the pod's status, so both
//! sides share these types. To the operator it is foreign input: a run's pod may write anything there.

mod fit;
mod read;

pub use fit::MAX_VERDICT_BYTES;
pub use read::{MAX_READ_BYTES, VerdictError};

use serde::{Deserialize, Serialize};

use crate::api::status::{FailureClass, Stage};

/// What preflight found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// Version of this format: always 1.
    pub version: u32,
    /// Always `preflight`.
    pub stage: Stage,
    /// What the verdict is bound to.
    pub spec_hash: String,
    /// True only if every check passed.
    pub passed: bool,
    /// One entry a check, in the order of [`CheckName`].
    pub checks: Vec<Check>,
    /// The data report; absent when the data were not looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<DataReport>,
    /// The tracker run that all attempts log to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mlflow: Option<MlflowRun>,
    /// True if something was cut to fit; the full report lies in the save folder.
    #[serde(default)]
    pub truncated: bool,
}

/// The checks, in the order in which they are reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum CheckName {
    /// Every Secret that the run names is there and has its keys.
    Secrets,
    /// The save folder can be written, read back and deleted from.
    SaveFolder,
    /// The run's folder belongs to no other run.
    Claim,
    /// The base model's files are complete.
    Model,
    /// The training data can be read.
    TrainData,
    /// The evaluation data can be read.
    EvalData,
    /// The cluster that tables are read with can be used.
    Cluster,
    /// The checkpoint to start from is there.
    CustomWeights,
    /// The experiment exists or was made.
    Mlflow,
    /// The model can be registered.
    Registry,
    /// The project can be logged to.
    Wandb,
    /// Every training row is good.
    TrainRows,
    /// Every evaluation row is good.
    EvalRows,
}

impl CheckName {
    /// The name as reported.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Secrets => "Secrets",
            Self::SaveFolder => "SaveFolder",
            Self::Claim => "Claim",
            Self::Model => "Model",
            Self::TrainData => "TrainData",
            Self::EvalData => "EvalData",
            Self::Cluster => "Cluster",
            Self::CustomWeights => "CustomWeights",
            Self::Mlflow => "Mlflow",
            Self::Registry => "Registry",
            Self::Wandb => "Wandb",
            Self::TrainRows => "TrainRows",
            Self::EvalRows => "EvalRows",
        }
    }
}

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// Which check.
    pub name: CheckName,
    /// Whether it passed.
    pub passed: bool,
    /// Whose fault a failure is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<FailureClass>,
    /// Stable CamelCase word for the failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Field of the run that the failure is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What happened and what to do, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// What was found in the data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DataReport {
    /// The training data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train: Option<SourceReport>,
    /// The evaluation data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval: Option<SourceReport>,
    /// Samples to pack into one sequence; 1 when packing is off or the data are text.
    pub packing_ratio: f64,
    /// True if all converted data were there already.
    #[serde(default)]
    pub cached: bool,
}

/// What was found in one source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SourceReport {
    /// The place that was read; empty when cut.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// Identity of the bytes that were read.
    pub digest: String,
    /// Rows (or text files) read.
    pub rows: u64,
    /// Tokens by the model's own tokenizer in what was kept, after cutting to the context length.
    pub tokens: u64,
    /// Rows longer than the context length, kept or not.
    pub too_long: u64,
    /// Rows left out because nothing in them would train.
    pub dropped: u64,
    /// Rows that break a rule.
    pub bad: u64,
    /// Rows that say the same as an earlier one; absent for text, and counted among the first 4,194,304 rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duplicates: Option<u64>,
    /// Of evaluation data, rows that are in the training data too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub also_in_train: Option<u64>,
    /// What to do about rows that are longer than the context length; absent when they are few, or when cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
    /// Samples written.
    pub samples: u64,
    /// Folder of the converted data; absent when there are bad rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mds: Option<String>,
}

/// The tracker run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MlflowRun {
    /// Experiment id.
    pub experiment_id: String,
    /// Run id.
    pub run_id: String,
    /// Where to look; absent when cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

impl Verdict {
    /// Judges the checks; they are put into the reported order.
    #[must_use]
    pub fn new(spec_hash: String, mut checks: Vec<Check>, data: Option<DataReport>, mlflow: Option<MlflowRun>) -> Self {
        checks.sort_by_key(|check| check.name);
        let passed = checks.iter().all(|check| check.passed);
        Self { version: 1, stage: Stage::Preflight, spec_hash, passed, checks, data, mlflow, truncated: false }
    }

    /// The first check that failed, which decides the exit code.
    #[must_use]
    pub fn first_failure(&self) -> Option<&Check> {
        self.checks.iter().find(|check| !check.passed)
    }

    /// Exit code of the stage: that of the first failed check, 0 without one.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        self.first_failure().map_or(0, Check::exit_code)
    }

    /// The whole verdict as JSON.
    ///
    /// # Panics
    /// Never: a verdict has only string keys.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a verdict has only string keys")
    }

    fn sources(&mut self) -> impl Iterator<Item = &mut SourceReport> {
        self.data.iter_mut().flat_map(|data| [&mut data.train, &mut data.eval]).flatten()
    }
}

impl Check {
    /// A check that passed.
    #[must_use]
    pub fn pass(name: CheckName) -> Self {
        Self { name, passed: true, class: None, reason: None, field: None, message: None }
    }

    /// Exit code that this check means on its own.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        if self.passed {
            return 0;
        }
        match (self.class, self.reason.as_deref()) {
            (_, Some("SaveFolderInUse")) => 13,
            (_, Some("SecretMissing")) => 31,
            (_, Some("SecretKeyMissing")) => 32,
            (Some(FailureClass::DataError), _) => 20,
            (Some(FailureClass::CredentialError), _) => 30,
            (Some(FailureClass::OutOfMemory), _) => 41,
            (Some(FailureClass::Diverged), _) => 50,
            (Some(FailureClass::Preempted), _) => 61,
            (Some(FailureClass::Infrastructure | FailureClass::NodeLost | FailureClass::Stalled), _) => 70,
            (Some(FailureClass::UserError) | None, _) => 10,
        }
    }
}

#[cfg(test)]
mod tests;
