//! What a run made, and where it is.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A complete checkpoint.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Checkpoint {
    /// Optimizer steps in it.
    #[schemars(range(min = 0))]
    pub step: i64,
    /// When it was complete.
    pub time: Time,
    /// Where it is.
    #[schemars(length(max = 1200))]
    pub uri: String,
    /// Bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub size_bytes: Option<i64>,
    /// composer or huggingface.
    #[schemars(length(max = 32))]
    pub kind: String,
    /// Whether it is the one that a next attempt starts from.
    #[serde(default)]
    pub newest: bool,
}

/// The Hugging Face export.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Export {
    /// Folder that `transformers` loads.
    #[schemars(length(max = 1200))]
    pub uri: String,
    /// Bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub size_bytes: Option<i64>,
}

/// The registered model.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RegisteredModel {
    /// Full name.
    #[schemars(length(max = 512))]
    pub name: String,
    /// Version.
    #[schemars(length(max = 64))]
    pub version: String,
    /// `models:/<name>/<version>`.
    #[schemars(length(max = 600))]
    pub uri: String,
}

/// A tokenizer in the form that preflight reads.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
pub struct Tokenizer {
    /// Its folder below the save folder; runs on the same model share it.
    #[schemars(length(max = 1200))]
    pub uri: String,
    /// Whether it is there; else it is made next.
    pub made: bool,
}

/// Where a run is logged.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Tracking {
    /// The `MLflow` run that all attempts share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mlflow: Option<MlflowRun>,
}

/// An `MLflow` run.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MlflowRun {
    /// Experiment.
    #[schemars(length(max = 64))]
    pub experiment_id: String,
    /// Run.
    #[schemars(length(max = 64))]
    pub run_id: String,
    /// Page of the run.
    #[schemars(length(max = 1024))]
    pub url: String,
}
