//! What the preflight found in the data.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the preflight found in the data.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct DataStatus {
    /// Training data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train: Option<DataSet>,
    /// Evaluation data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval: Option<DataSet>,
    /// Rows that are packed into one sample on average.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packing_ratio: Option<f64>,
    /// Optimizer steps that the duration will take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub estimated_steps: Option<i64>,
    /// GPU-hours that training will take, a rough estimate; absent for GPUs of a type that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimated_gpu_hours: Option<f64>,
    /// Full report of the preflight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1200))]
    pub report: Option<String>,
    /// Whether an earlier conversion was used.
    #[serde(default)]
    pub cached: bool,
}

/// One converted data set.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct DataSet {
    /// Where the rows came from.
    #[schemars(length(max = 1024))]
    pub source: String,
    /// Digest of the source.
    #[schemars(length(max = 128))]
    pub digest: String,
    /// Rows, or files of text.
    #[schemars(range(min = 0))]
    pub rows: i64,
    /// Tokens by the model's own tokenizer.
    #[schemars(range(min = 0))]
    pub tokens: i64,
    /// Rows longer than the context.
    #[schemars(range(min = 0))]
    pub too_long: i64,
    /// Rows left out because nothing in them could be trained on.
    #[schemars(range(min = 0))]
    pub dropped: i64,
    /// Rows that say the same as an earlier one, among the first 4,194,304; absent for text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub duplicates: Option<i64>,
    /// Of evaluation data, rows that are in the training data too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub also_in_train: Option<i64>,
    /// What to do about rows that are longer than the context, when they are many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub advice: Option<String>,
    /// Samples that the trainer reads.
    #[schemars(range(min = 0))]
    pub samples: i64,
    /// Folder of the converted data.
    #[schemars(length(max = 1200))]
    pub mds: String,
}
