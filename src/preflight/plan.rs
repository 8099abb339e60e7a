//! `plan.json`: what the operator asks of one preflight pod; pure, no I/O.
//!
//! The operator writes it and preflight reads it, so both sides share these types. Unknown fields are refused:
//! a plan that is only half understood would prove something else than what was asked.

use serde::{Deserialize, Serialize};

use crate::api::TaskType;
use crate::api::secret_ref::SecretKind;

/// A plan larger than this is refused unread.
pub const MAX_PLAN_BYTES: usize = 256 * 1024;
/// The longest place (URI, dataset name, table name) or URL in a plan.
pub const MAX_PLACE_BYTES: usize = 1024;
/// The longest name, hash, key or uid in a plan.
pub const MAX_NAME_BYTES: usize = 256;
/// The most Secrets that one run may name.
pub const MAX_SECRETS: usize = 64;
/// The longest chat template override, which is by far the largest text in a plan.
pub const MAX_TEMPLATE_BYTES: usize = 128 * 1024;

/// Everything that preflight is told about its run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Plan {
    /// Version of this format: always 1.
    pub version: u32,
    /// The run that is being proved.
    pub run: RunIdentity,
    /// Hash of the immutable spec with its resolved model and runtime: what a pass is bound to.
    pub spec_hash: String,
    /// False skips the credential checks, but neither the claim nor the data.
    pub check_credentials: bool,
    /// False on a retry whose data were already proved for this `specHash`.
    pub convert_data: bool,
    /// How rows are read.
    pub task_type: TaskType,
    /// Where the training data lie.
    pub train: String,
    /// Where the evaluation data lie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval: Option<String>,
    /// Id of the Databricks cluster that tables are read with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// How many evaluation prompts the run has.
    #[serde(default)]
    pub eval_prompts: u32,
    /// Root of everything that the run writes.
    pub save_folder: String,
    /// Longest sequence in tokens.
    pub context_length: u32,
    /// The base model.
    pub model: ModelSource,
    /// A checkpoint to start from instead of the model's own weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom_weights: Option<String>,
    /// Whether short samples are packed together.
    pub packing: bool,
    /// Samples in one training step, over all accelerators.
    pub global_batch_size: u32,
    /// Number of training processes.
    pub world_size: u32,
    /// The MLflow tracker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mlflow: Option<MlflowTarget>,
    /// The Weights & Biases tracker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wandb: Option<WandbTarget>,
    /// An S3-compatible endpoint instead of AWS's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Endpoint>,
    /// The Secrets that the run names, and where each is mounted.
    #[serde(default)]
    pub secrets: Vec<SecretMount>,
    /// How long each part may take, from the pod's start.
    pub deadlines: Deadlines,
}

/// Which run this is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RunIdentity {
    /// Namespace of the run.
    pub namespace: String,
    /// Name of the run, which is also its folder below the save folder.
    pub name: String,
    /// Uid of the run: what a claim is made with.
    pub uid: String,
}

/// Where the base model's weights and tokenizer come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ModelSource {
    /// Name in the catalogue, and on the hub when there is no other place.
    pub name: String,
    /// Object store, volume or hub repository (`hf://entity/model`, or absent: the name) of the weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<String>,
    /// Commit on the hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Folder with the tokenizer that was made for a model without `tokenizer.json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<String>,
    /// Chat template that wins over the tokenizer's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<String>,
}

/// The MLflow experiment that the run logs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MlflowTarget {
    /// Base URL of the tracking server; `databricks` or absent: the workspace of the `databricks` Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracking_uri: Option<String>,
    /// Name of the experiment, made if it does not exist.
    pub experiment_path: String,
    /// Registered model that the run's result becomes a version of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry: Option<String>,
}

/// The Weights & Biases project that the run logs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WandbTarget {
    /// Project name.
    pub project: String,
    /// User or team that owns the project.
    pub entity: String,
}

/// An S3-compatible service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct S3Endpoint {
    /// Base URL; absent: AWS's own of the region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_url: Option<String>,
    /// Region that requests are signed for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
}

/// One Secret of the run, mounted as an optional volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretMount {
    /// Name of the Secret.
    pub name: String,
    /// What it is a credential for.
    pub kind: SecretKind,
    /// The key of an `env` or `mounted` Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The profile of an `s3` Secret that holds a credentials file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Folder that it is mounted at.
    pub path: String,
}

/// Deadlines of the two parts of preflight, both from the pod's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Deadlines {
    /// For all credential checks together.
    pub credentials_seconds: u32,
    /// For reading, checking and converting the data.
    pub data_seconds: u32,
}

/// Why a plan is refused.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The file is larger than any plan of ours.
    #[error("the plan has {0} bytes, at most {MAX_PLAN_BYTES} are read")]
    TooLarge(usize),
    /// Not JSON, or not this shape.
    #[error("the plan cannot be read: {0}")]
    Shape(#[from] serde_json::Error),
    /// A plan of another version of the operator.
    #[error("the plan has version {0}, this program reads version 1")]
    Version(u32),
    /// A field is outside its bounds.
    #[error("{field} of the plan {problem}")]
    Field {
        /// Path of the field in the plan.
        field: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
}

impl Plan {
    /// Reads a plan strictly: known fields only, every text and number within its bounds.
    pub fn parse(bytes: &[u8]) -> Result<Self, PlanError> {
        if bytes.len() > MAX_PLAN_BYTES {
            return Err(PlanError::TooLarge(bytes.len()));
        }
        let plan: Self = serde_json::from_slice(bytes)?;
        if plan.version != 1 {
            return Err(PlanError::Version(plan.version));
        }
        plan.check_bounds()?;
        Ok(plan)
    }

    fn check_bounds(&self) -> Result<(), PlanError> {
        segment("run.namespace", &self.run.namespace)?;
        segment("run.name", &self.run.name)?;
        name("run.uid", &self.run.uid)?;
        name("specHash", &self.spec_hash)?;
        place("train", &self.train)?;
        optional("eval", self.eval.as_deref(), place)?;
        optional("cluster", self.cluster.as_deref(), name)?;
        place("saveFolder", &self.save_folder)?;
        name("model.name", &self.model.name)?;
        optional("model.weights", self.model.weights.as_deref(), place)?;
        optional("model.revision", self.model.revision.as_deref(), name)?;
        optional("model.tokenizer", self.model.tokenizer.as_deref(), place)?;
        optional("customWeights", self.custom_weights.as_deref(), place)?;
        if self.model.chat_template.as_ref().is_some_and(|template| template.len() > MAX_TEMPLATE_BYTES) {
            return Err(PlanError::Field { field: "model.chatTemplate", problem: "is too long" });
        }
        if let Some(mlflow) = &self.mlflow {
            optional("mlflow.trackingUri", mlflow.tracking_uri.as_deref(), place)?;
            place("mlflow.experimentPath", &mlflow.experiment_path)?;
            optional("mlflow.registry", mlflow.registry.as_deref(), place)?;
        }
        if let Some(wandb) = &self.wandb {
            name("wandb.project", &wandb.project)?;
            name("wandb.entity", &wandb.entity)?;
        }
        if let Some(s3) = &self.s3 {
            optional("s3.endpointUrl", s3.endpoint_url.as_deref(), place)?;
            optional("s3.region", s3.region.as_deref(), name)?;
        }
        if self.secrets.len() > MAX_SECRETS {
            return Err(PlanError::Field { field: "secrets", problem: "has too many entries" });
        }
        for secret in &self.secrets {
            segment("secrets.name", &secret.name)?;
            place("secrets.path", &secret.path)?;
            optional("secrets.key", secret.key.as_deref(), segment)?;
            optional("secrets.profile", secret.profile.as_deref(), name)?;
        }
        for (field, value) in [
            ("contextLength", self.context_length),
            ("globalBatchSize", self.global_batch_size),
            ("worldSize", self.world_size),
            ("deadlines.credentialsSeconds", self.deadlines.credentials_seconds),
            ("deadlines.dataSeconds", self.deadlines.data_seconds),
        ] {
            if value == 0 {
                return Err(PlanError::Field { field, problem: "must be at least 1" });
            }
        }
        Ok(())
    }

    /// The run's own folder, below which only this run writes.
    #[must_use]
    pub fn run_folder(&self) -> String {
        format!("{}/{}", self.save_folder.trim_end_matches('/'), self.run.name)
    }
}

type Bound = fn(&'static str, &str) -> Result<(), PlanError>;

fn optional(field: &'static str, text: Option<&str>, bound: Bound) -> Result<(), PlanError> {
    text.map_or(Ok(()), |text| bound(field, text))
}

fn name(field: &'static str, text: &str) -> Result<(), PlanError> {
    bounded(field, text, MAX_NAME_BYTES)
}

fn place(field: &'static str, text: &str) -> Result<(), PlanError> {
    bounded(field, text, MAX_PLACE_BYTES)
}

/// A name that becomes one folder of a path: it can neither leave its parent nor add a level.
fn segment(field: &'static str, text: &str) -> Result<(), PlanError> {
    name(field, text)?;
    if text.contains('/') || text == "." || text == ".." {
        return Err(PlanError::Field { field, problem: "is not a plain name" });
    }
    Ok(())
}

/// Quotes and backslashes would grow when escaped, and no place or name of ours has them; without them a verdict
/// that quotes these texts has a known size.
fn bounded(field: &'static str, text: &str, limit: usize) -> Result<(), PlanError> {
    let problem = if text.is_empty() {
        "is empty"
    } else if text.len() > limit {
        "is too long"
    } else if text.chars().any(|c| c.is_control() || c == '"' || c == '\\') {
        "has a control character, a quote or a backslash"
    } else {
        return Ok(());
    };
    Err(PlanError::Field { field, problem })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    pub(crate) fn example() -> Value {
        json!({"version": 1, "run": {"namespace": "team-a", "name": "my-run", "uid": "u-1"}, "specHash": "h",
            "checkCredentials": true, "convertData": true, "taskType": "INSTRUCTION_FINETUNE",
            "train": "s3://data/train.jsonl", "eval": null, "evalPrompts": 2, "saveFolder": "s3://out/team-a",
            "contextLength": 256,
            "model": {"name": "demo/tiny-llama", "weights": "s3://models/tiny-llama", "revision": null, "chatTemplate": null},
            "customWeights": null, "packing": true, "globalBatchSize": 8, "worldSize": 1,
            "mlflow": {"trackingUri": "http://mlflow:5000", "experimentPath": "/finetune/x", "registry": "main.models.x"},
            "wandb": {"project": "p", "entity": "e"},
            "s3": {"endpointUrl": "http://s3:9000", "region": "us-east-1"},
            "secrets": [{"name": "s3-credentials", "kind": "s3", "key": null, "profile": null,
                         "path": "/var/run/finetune/secrets/s3-credentials"}],
            "deadlines": {"credentialsSeconds": 120, "dataSeconds": 86400}})
    }

    fn parse(value: &Value) -> Result<Plan, String> {
        Plan::parse(value.to_string().as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_plan_of_the_contract_is_read_and_written_back() {
        let plan = parse(&example()).unwrap();
        assert_eq!(plan.run_folder(), "s3://out/team-a/my-run");
        let again = Plan::parse(&serde_json::to_vec(&plan).unwrap()).unwrap();
        assert_eq!(again, plan);
    }

    #[test]
    fn an_unknown_field_at_any_level_is_refused() {
        for pointer in ["", "/run", "/model", "/mlflow", "/wandb", "/s3", "/secrets/0", "/deadlines"] {
            let mut value = example();
            value.pointer_mut(pointer).unwrap()["surprise"] = json!(1);
            let error = parse(&value).unwrap_err();
            assert!(error.contains("unknown field `surprise`"), "{pointer}: {error}");
        }
    }

    #[test]
    fn a_field_out_of_bounds_is_named() {
        let long = "x".repeat(MAX_PLACE_BYTES + 1);
        for (pointer, bad, message) in [
            ("/train", json!(""), "train of the plan is empty"),
            ("/train", json!(long), "train of the plan is too long"),
            ("/saveFolder", json!("s3://a/\"b"), "saveFolder of the plan has a control character, a quote or a backslash"),
            ("/run/name", json!("../other"), "run.name of the plan is not a plain name"),
            ("/secrets/0/key", json!("a/b"), "secrets.key of the plan is not a plain name"),
            ("/contextLength", json!(0), "contextLength of the plan must be at least 1"),
            ("/version", json!(2), "the plan has version 2, this program reads version 1"),
        ] {
            let mut value = example();
            *value.pointer_mut(pointer).unwrap() = bad;
            assert_eq!(parse(&value).unwrap_err(), message, "{pointer}");
        }
    }

    #[test]
    fn a_huge_plan_is_refused_unread() {
        let bytes = vec![b' '; MAX_PLAN_BYTES + 1];
        assert!(matches!(Plan::parse(&bytes), Err(PlanError::TooLarge(n)) if n == MAX_PLAN_BYTES + 1));
    }
}
