//! `FinetuneRunStatus`: what the operator says of a run, and the little it must remember between two steps.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The services' statuses. Completed and Failed are sinks; Stopped goes on when `suspend` becomes false.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Accepted or not yet, being checked, or waiting for something that is missing.
    Pending,
    /// Training waits for resources.
    Queued,
    /// Training is being set up: image, weights, initialisation.
    Starting,
    /// Training, exporting or registering.
    Running,
    /// Being stopped.
    Terminating,
    /// Finished.
    Completed,
    /// Stopped by a person or by a limit, with its checkpoint kept.
    Stopped,
    /// Failed for good.
    Failed,
}

impl Phase {
    /// Whether nothing can change it any more.
    #[must_use]
    pub fn is_sink(self) -> bool {
        matches!(self, Self::Completed | Self::Failed)
    }
}

/// The three stages of a run.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Credentials and data.
    Preflight,
    /// Training.
    Train,
    /// Registration.
    Register,
}

impl Stage {
    /// The name in labels and files.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Preflight => "preflight",
            Self::Train => "train",
            Self::Register => "register",
        }
    }
}

/// Why something failed; it decides what happens next and whose turn it is.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureClass {
    /// The run asks for something that cannot work.
    UserError,
    /// The data are bad.
    DataError,
    /// A credential is missing or refused.
    CredentialError,
    /// Memory of the accelerator or the host did not suffice.
    OutOfMemory,
    /// The loss became useless.
    Diverged,
    /// Stopped for somebody else, or told to stop.
    Preempted,
    /// The node went away.
    NodeLost,
    /// Nothing was heard for too long.
    Stalled,
    /// A service, the network or the cluster failed.
    Infrastructure,
}

/// The services' event types.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum EventType {
    /// The run was seen first.
    Created,
    /// Credentials and places were proved.
    CheckPassed,
    /// A check failed.
    CheckFailed,
    /// The data were validated and converted.
    DataValidated,
    /// An attempt left the queue.
    Started,
    /// Weights are loaded.
    ModelInitialized,
    /// The training loop began.
    TrainStarted,
    /// A checkpoint is complete.
    CheckpointSaved,
    /// The training loop ended; upload and export go on.
    TrainFinished,
    /// The run finished.
    Completed,
    /// Stopped by a limit.
    Stopped,
    /// Stopped by a person.
    Canceled,
    /// Failed for good.
    Failed,
    /// The exception behind a failure.
    FailedException,
    /// A new attempt will be made.
    Requeued,
}

impl EventType {
    /// The services' spelling.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "CREATED",
            Self::CheckPassed => "CHECK_PASSED",
            Self::CheckFailed => "CHECK_FAILED",
            Self::DataValidated => "DATA_VALIDATED",
            Self::Started => "STARTED",
            Self::ModelInitialized => "MODEL_INITIALIZED",
            Self::TrainStarted => "TRAIN_STARTED",
            Self::CheckpointSaved => "CHECKPOINT_SAVED",
            Self::TrainFinished => "TRAIN_FINISHED",
            Self::Completed => "COMPLETED",
            Self::Stopped => "STOPPED",
            Self::Canceled => "CANCELED",
            Self::Failed => "FAILED",
            Self::FailedException => "FAILED_EXCEPTION",
            Self::Requeued => "REQUEUED",
        }
    }
}

/// What the operator says of a run. At most 32 KiB.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct FinetuneRunStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,

    /// Summary of the conditions for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,

    /// Why it is in this phase, one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub reason: Option<String>,

    /// Why it is in this phase, for people, with what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,

    /// Accepted, PreflightPassed, DataReady, Trained, Registered, and Ready, Reconciling, Stalled for tools.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 12), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,

    /// Hash of the fixed part of the spec with the resolved model and runtime; set when the run is accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub spec_hash: Option<String>,

    /// What was chosen where the spec was silent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved: Option<Resolved>,

    /// The Job that is wanted now: written before the Job is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_job: Option<CurrentJob>,

    /// Jobs made and failures so far.
    #[serde(default)]
    pub retries: Retries,

    /// No Job is made before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt_at: Option<Time>,

    /// Number of the newest training attempt, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub attempt: Option<i64>,

    /// First start of training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,

    /// When the run ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Time>,

    /// When training is expected to end; absent once training is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimated_end_time: Option<Time>,

    /// The newest attempt's progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,

    /// What the preflight found in the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<DataStatus>,

    /// The newest complete checkpoints, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub checkpoints: Vec<Checkpoint>,

    /// The Hugging Face export.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub export: Option<Export>,

    /// The last 16 attempts, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub attempts: Vec<Attempt>,

    /// GPU-hours of all attempts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_hours: Option<GpuHours>,

    /// The failure that ended the run, or the newest one that was tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,

    /// The registered model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registered_model: Option<RegisteredModel>,

    /// Where the run is logged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracking: Option<Tracking>,

    /// The services' events, oldest first, the newest 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub events: Vec<RunEvent>,
}

/// What was chosen where the spec was silent, and what the model's and runtime's owners decided.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Resolved {
    /// FinetuneModel object.
    #[schemars(length(max = 253))]
    pub model: String,
    /// FinetuneRuntime object.
    #[schemars(length(max = 253))]
    pub runtime: String,
    /// Image of the train and register stages.
    #[schemars(length(max = 512))]
    pub image: String,
    /// Where the weights come from.
    #[schemars(length(max = 1024))]
    pub weights: String,
    /// Context length in tokens.
    #[schemars(range(min = 1))]
    pub context_length: i64,
    /// Training duration in the engine's spelling.
    #[schemars(length(max = 24))]
    pub training_duration: String,
    /// Interval of checkpoints, evaluations and prompts; absent until the data are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 24))]
    pub interval: Option<String>,
    /// Nodes.
    #[schemars(range(min = 1))]
    pub nodes: i32,
    /// GPUs on each node.
    #[schemars(range(min = 0))]
    pub gpus_per_node: i32,
    /// GPU type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub gpu_type: Option<String>,
    /// Samples in one optimizer step.
    #[schemars(range(min = 1))]
    pub global_batch_size: i64,
    /// Precision.
    #[schemars(length(max = 16))]
    pub precision: String,
    /// Name the model will be registered under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub register_to: Option<String>,
    /// Experiment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub experiment_path: Option<String>,
    /// Tracking server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub tracking_uri: Option<String>,
    /// S3 endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub s3_endpoint_url: Option<String>,
    /// S3 region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub s3_region: Option<String>,
    /// Names of the Secrets in use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 253)))]
    pub secrets: Vec<String>,
}

/// The Job that is wanted now.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CurrentJob {
    /// Its stage.
    pub stage: Stage,
    /// Its number within the stage, from 0.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub number: i64,
    /// Its name.
    #[schemars(length(max = 63))]
    pub name: String,
    /// Its uid, once it was seen: a Job that was seen and is gone was deleted by somebody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub uid: Option<String>,
    /// When this intent was written.
    pub since: Time,
    /// Whether a preflight leaves the data alone because they were proved before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub checks_only: bool,
    /// Why it is given up; its Job is deleted next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given_up: Option<Box<Failure>>,
}

/// Jobs made and failures so far. The budget belongs to the run, not to a Job.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Retries {
    /// Preflight Jobs that were wanted so far: also the number of the next one.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub preflights: i64,
    /// Preflights in a row that did not pass and are tried again.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub preflight_failures: i64,
    /// Training failures that count against `scheduling.maxRetries`.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub failures: i64,
    /// Preemptions and lost nodes, which count against `scheduling.maxPreemptions`.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub preemptions: i64,
    /// Register Jobs that were wanted so far: also the number of the next one.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub registrations: i64,
}

/// Progress of the newest attempt. Numbers come from the trainer and are clamped.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// For tables: `42%`, or what a starting run waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub summary: Option<String>,
    /// Percent of the duration, 0 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub percent: Option<i32>,
    /// Remaining time, one unit: `40s`, `12min`, `3hr`, `2d`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub eta: Option<String>,
    /// What a starting attempt waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub waiting_for: Option<String>,
    /// Optimizer steps done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub step: Option<i64>,
    /// Optimizer steps in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub total_steps: Option<i64>,
    /// Current epoch, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub epoch: Option<i64>,
    /// Tokens seen, padding not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub tokens: Option<i64>,
    /// Tokens in all, where the duration is in tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub total_tokens: Option<i64>,
    /// Training loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// Learning rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// Norm of the gradient.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradient_norm: Option<f64>,
    /// Throughput.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_second: Option<f64>,
    /// Newest evaluation metrics.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub eval_metrics: BTreeMap<String, f64>,
    /// When the trainer was heard last, by the operator's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_heard_from: Option<Time>,
}

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

/// One attempt at training.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// From 0.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub number: i64,
    /// Its Job.
    #[schemars(length(max = 63))]
    pub job: String,
    /// Nodes it ran on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 253)))]
    pub nodes: Vec<String>,
    /// When its GPUs were taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When its GPUs were free again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Time>,
    /// How it ended, one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub reason: Option<String>,
    /// Exit code of the pod that decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 255))]
    pub exit_code: Option<i32>,
    /// GPU-hours.
    #[serde(default)]
    pub gpu_hours: f64,
    /// Step of the checkpoint it started from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub resumed_from_step: Option<i64>,
}

/// GPU-hours of all attempts.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct GpuHours {
    /// Used in all.
    pub used: f64,
    /// Of them spent on steps that no checkpoint kept.
    pub lost: f64,
}

/// A failure, with what is needed to act on it.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// Whose turn it is.
    pub class: FailureClass,
    /// Stage it happened in.
    pub stage: Stage,
    /// One word.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// What failed, naming the field and the object.
    #[schemars(length(max = 1024))]
    pub message: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub hint: Option<String>,
    /// Exit code of the pod that decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 255))]
    pub exit_code: Option<i32>,
    /// First exception.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub exception: Option<String>,
    /// End of the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1600))]
    pub log_tail: Option<String>,
    /// Pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub pod: Option<String>,
    /// Attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub attempt: Option<i64>,
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

/// One of the services' events.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RunEvent {
    /// What happened.
    #[serde(rename = "type")]
    pub type_: EventType,
    /// When.
    pub time: Time,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub message: String,
    /// Attempt it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub attempt: Option<i64>,
}
