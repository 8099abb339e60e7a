//! `FinetuneRun`: what a person asks for. Fields, bounds, defaults and the rules that need no other object.

use kube::core::Rule;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::scheduling::{ComputeRequest, Scheduling};
use super::secret_ref::SecretRef;
use super::status::FinetuneRunStatus;
use super::training_duration;

/// What kind of data a run trains on.
#[derive(Serialize, Deserialize, schemars::JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TaskType {
    /// Rows with a prompt and a response.
    #[default]
    InstructionFinetune,
    /// Rows with messages.
    ChatCompletion,
    /// A folder of text files.
    ContinuedPretrain,
}

/// One finetuning run: from a base model and training data to checkpoints, a Hugging Face export and a registered model.
///
/// Everything but `suspend` and `scheduling` is fixed once the run is accepted.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "finetune.dev",
    version = "v1alpha1",
    kind = "FinetuneRun",
    namespaced,
    status = "FinetuneRunStatus",
    shortname = "ftr",
    category = "ml",
    derive = "PartialEq",
    doc = "One finetuning run: from a base model and training data to checkpoints, a Hugging Face export and a registered model.",
    selectable = ".spec.model",
    selectable = ".status.phase",
    printcolumn(name = "Model", type_ = "string", json_path = ".spec.model"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Progress", type_ = "string", json_path = ".status.progress.summary"),
    printcolumn(name = "ETA", type_ = "string", json_path = ".status.progress.eta"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.reason"),
    printcolumn(name = "Attempt", type_ = "integer", json_path = ".status.attempt", priority = 1),
    printcolumn(name = "Registered", type_ = "string", json_path = ".status.registeredModel.uri", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    cel,
    validation = Rule::new("self.metadata.name.matches('^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$')").message("metadata.name must be at most 63 lower-case letters, digits and dashes, and start and end with a letter or digit: it becomes a folder and a label")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    cel,
    validation = Rule::new("!has(self.registerTo) || !has(self.experimentTracker) || !has(self.experimentTracker.mlflow) || !has(self.experimentTracker.mlflow.modelRegistryPath) || self.registerTo == self.experimentTracker.mlflow.modelRegistryPath").message("registerTo and experimentTracker.mlflow.modelRegistryPath are the same setting and differ here: keep one of them").field_path(".registerTo"),
    validation = Rule::new("!has(self.registerTo) || (has(self.experimentTracker) && has(self.experimentTracker.mlflow))").message("registerTo needs experimentTracker.mlflow: the model is registered in that server's registry").field_path(".registerTo"),
    validation = Rule::new("!has(self.validateInputs) || !has(self.disableCredentialsCheck) || self.validateInputs != self.disableCredentialsCheck").message("validateInputs and disableCredentialsCheck are opposites and contradict each other here: keep one of them").field_path(".validateInputs"),
    validation = Rule::new("!has(self.evalPrompts) || has(self.experimentTracker)").message("evalPrompts needs experimentTracker: the generations are logged there").field_path(".evalPrompts"),
    validation = Rule::new("self.taskType != 'CONTINUED_PRETRAIN' || self.trainDataPath.matches('^([a-z0-9]+:/|/)')").message("trainDataPath of CONTINUED_PRETRAIN must be a folder with .txt files in an object store, a volume or a PVC, not a dataset or a table").field_path(".trainDataPath"),
    validation = Rule::new("self.taskType != 'CONTINUED_PRETRAIN' || !has(self.evalDataPath) || self.evalDataPath.matches('^([a-z0-9]+:/|/)')").message("evalDataPath of CONTINUED_PRETRAIN must be a folder with .txt files in an object store, a volume or a PVC, not a dataset or a table").field_path(".evalDataPath"),
    validation = Rule::new("has(self.dataPrepClusterId) || !(self.trainDataPath.matches('^[^/.:]+[.][^/.:]+[.][^/.:]+$') || (has(self.evalDataPath) && self.evalDataPath.matches('^[^/.:]+[.][^/.:]+[.][^/.:]+$')))").message("dataPrepClusterId is needed to read a table: give the id of a cluster").field_path(".dataPrepClusterId"),
    validation = Rule::new("!has(self.adapter)").message("adapter is reserved: no engine implements adapters yet, leave it out to train all weights").field_path(".adapter")
)]
pub struct FinetuneRunSpec {
    /// Base model: the `spec.name` of a FinetuneModel, for example `meta-llama/Llama-3.1-8B-Instruct`. `kubectl get finetunemodels` lists them.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[a-zA-Z0-9][-._/a-zA-Z0-9]*$"))]
    pub model: String,

    /// Training data. INSTRUCTION_FINETUNE and CHAT_COMPLETION: a .jsonl file (`s3://bucket/train.jsonl`, also gs, oci, az, https, pvc, dbfs:/Volumes), a Hugging Face
    /// dataset with its split (`entity/dataset/train`), or a table (`catalog.schema.table`). CONTINUED_PRETRAIN: a folder; its .txt files are used.
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^[^\s\x00-\x1f-][^\x00-\x1f]*$"))]
    pub train_data_path: String,

    /// Folder for everything the run writes, below `<saveFolder>/<run name>`: an object store (`s3://`, `gs://`, `oci://`) or a volume
    /// (`dbfs:/Volumes/catalog/schema/volume`): where the engine can write checkpoints, so not `az://`.
    #[schemars(length(max = 1024))]
    #[x_kube(validation = matching(
        r"^((s3|gs|oci)://[^/\s\x00-\x1f]+(/[^\x00-\x1f]*)?|dbfs:/Volumes(/[^/\x00-\x1f]+){3}(/[^\x00-\x1f]*)?)$",
        "must be a folder that training can write: s3://bucket/folder, also gs and oci, or dbfs:/Volumes/catalog/schema/volume"
    ))]
    pub save_folder: String,

    /// INSTRUCTION_FINETUNE (default), CHAT_COMPLETION or CONTINUED_PRETRAIN.
    #[serde(default)]
    pub task_type: TaskType,

    /// Evaluation data, in the form of the training data. Cross-entropy and perplexity are reported on it during training. Not set: no evaluation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^[^\s\x00-\x1f-][^\x00-\x1f]*$"))]
    pub eval_data_path: Option<String>,

    /// Prompts that the model answers at every checkpoint (at most 100 new tokens, temperature 1, top_k 50, top_p 0.95); the answers go to the tracker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32), inner(length(min = 1, max = 4096)))]
    pub eval_prompts: Option<Vec<String>>,

    /// Engine checkpoint to start from instead of the pretrained weights: a checkpoint folder, a `.symlink` or a `.pt` file of the same architecture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^([a-z0-9]+://?|/)[^\x00-\x1f]+$"))]
    pub custom_weights_path: Option<String>,

    /// How long to train: `<integer>` and `ep` (epochs), `ba` (batches) or `tok` (tokens, padding not counted); `_` may separate digits.
    #[serde(default = "one_epoch")]
    #[schemars(length(max = 24))]
    #[x_kube(validation = duration())]
    pub training_duration: String,

    /// Peak learning rate. Optimizer DecoupledLionW with betas 0.90 and 0.95 (a runtime may set others) and no weight decay; 2 % linear warmup, then linear decay to 0.
    #[serde(default = "learning_rate")]
    #[schemars(range(min = 1e-12, max = 1.0))]
    pub learning_rate: f64,

    /// Longest sample in tokens; longer ones are cut, shorter ones are packed together. Not set: the model's default. More than the model's maximum is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16_777_216))]
    pub context_length: Option<i64>,

    /// Where metrics, evaluations and generations are logged. MLflow and W&B may both be set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experiment_tracker: Option<ExperimentTracker>,

    /// Registers the model after training: `catalog.schema` (the run's name is added) or `catalog.schema.model`. The same as `experimentTracker.mlflow.modelRegistryPath`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    #[x_kube(validation = registry_path())]
    pub register_to: Option<String>,

    /// true skips the check of credentials and places before training; data are still validated. The same as `validateInputs: false`. Not set: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disable_credentials_check: Option<bool>,

    /// false skips the check of credentials and places: the opposite spelling of `disableCredentialsCheck`. Not set: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validate_inputs: Option<bool>,

    /// Databricks cluster that reads the table, where the data are a table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[a-zA-Z0-9][-_a-zA-Z0-9]*$"))]
    pub data_prep_cluster_id: Option<String>,

    /// Secrets of this namespace that the run uses, besides those that the ConfigMap `finetune-defaults` names. Only names stand here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub secrets: Vec<SecretRef>,

    /// Where S3 paths are, if not at AWS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3>,

    /// ServiceAccount of the run's pods: `finetune-runner` or one that carries the label `finetune.dev/allow-runs: "true"`.
    #[serde(default = "service_account")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$"))]
    pub service_account_name: String,

    /// Nodes and GPUs, where they shall differ from the model's table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute: Option<ComputeRequest>,

    /// One interval for checkpoints, evaluations and prompts. Not set: the smaller of 1ep and a quarter of the duration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 24))]
    #[x_kube(validation = duration())]
    pub checkpoint_every: Option<String>,

    /// How many engine checkpoints are kept; older ones are removed.
    #[serde(default = "keep_checkpoints")]
    #[schemars(range(min = 1, max = 100))]
    pub keep_checkpoints: i32,

    /// Packs several short rows into one sample. Packed rows may attend to each other in the engine.
    #[serde(default = "yes")]
    pub packing: bool,

    /// Seed of initialisation and shuffling.
    #[serde(default = "seed")]
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub seed: i64,

    /// Reserved for adapters (LoRA); refused until an engine implements it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub adapter: Option<String>,

    /// true stops the run: GPUs are freed, the checkpoint is kept, the phase becomes Stopped. false lets it go on from the newest checkpoint.
    #[serde(default)]
    pub suspend: bool,

    /// Scheduling knobs; they may change while the run lives.
    #[serde(default)]
    pub scheduling: Scheduling,
}

/// Where a run is logged. At least one of the two.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.mlflow) || has(self.wandb)").message("experimentTracker needs mlflow or wandb"))]
pub struct ExperimentTracker {
    /// MLflow, one's own server or Databricks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mlflow: Option<MlflowTracker>,
    /// Weights & Biases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wandb: Option<WandbTracker>,
}

/// An MLflow experiment.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MlflowTracker {
    /// Experiment; it is made when it does not exist. On Databricks a workspace path. Not set: the operator's prefix, the namespace and the run's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255), regex(pattern = r"^[^\s\x00-\x1f-][^\x00-\x1f]*$"))]
    pub experiment_path: Option<String>,

    /// The same as `registerTo`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    #[x_kube(validation = registry_path())]
    pub model_registry_path: Option<String>,

    /// Address of the server (`http://`, `https://`) or `databricks`. Not set: what the ConfigMap `finetune-defaults` says, else `databricks`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    #[x_kube(validation = matching(r"^(https?://[^\s\x00-\x1f@]+|databricks)$", "must be http://host, https://host (without user name and password) or databricks"))]
    pub tracking_uri: Option<String>,
}

/// A Weights & Biases project.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct WandbTracker {
    /// Project.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[^\s\x00-\x1f-][^\x00-\x1f]*$"))]
    pub project: String,
    /// User or team.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[^\s\x00-\x1f-][^\x00-\x1f]*$"))]
    pub entity: String,
}

/// An S3-compatible store.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct S3 {
    /// Address of the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    #[x_kube(validation = matching(r"^https?://[^\s\x00-\x1f@]+$", "must be http://host or https://host, without user name and password"))]
    pub endpoint_url: Option<String>,
    /// Region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[a-z0-9][-a-z0-9]*$"))]
    pub region: Option<String>,
}

/// A pattern that says in words what it wants: the schema keyword would only show itself.
fn matching(pattern: &str, message: &str) -> Rule {
    Rule::new(format!("self.matches(r'{pattern}')")).message(message)
}

fn duration() -> Rule {
    matching(training_duration::PATTERN, "must be a whole number and ep (epochs), ba (batches) or tok (tokens), for example 3ep or 1_000_000tok")
}

fn registry_path() -> Rule {
    matching(r"^[^\s./\x00-\x1f-][^\s./\x00-\x1f]*(\.[^\s./\x00-\x1f]+){1,2}$", "must be catalog.schema or catalog.schema.model")
}

fn one_epoch() -> String {
    "1ep".to_owned()
}

fn learning_rate() -> f64 {
    5e-7
}

fn service_account() -> String {
    super::DEFAULT_SERVICE_ACCOUNT.to_owned()
}

fn keep_checkpoints() -> i32 {
    3
}

fn yes() -> bool {
    true
}

fn seed() -> i64 {
    17
}

impl FinetuneRunSpec {
    /// Whether credentials and places are checked, from either spelling.
    #[must_use]
    pub fn checks_credentials(&self) -> bool {
        !self.disable_credentials_check.unwrap_or(false) && self.validate_inputs.unwrap_or(true)
    }

    /// The registry path, from either spelling.
    #[must_use]
    pub fn registry_path(&self) -> Option<&str> {
        let tracker = || self.experiment_tracker.as_ref()?.mlflow.as_ref()?.model_registry_path.as_deref();
        self.register_to.as_deref().or_else(tracker)
    }

    /// The name the model is registered under: a path of two parts gets the run's name as its third.
    #[must_use]
    pub fn registered_name(&self, run: &str) -> Option<String> {
        self.registry_path().map(|path| if path.matches('.').count() == 1 { format!("{path}.{run}") } else { path.to_owned() })
    }
}

#[cfg(test)]
impl FinetuneRun {
    /// A small valid run for tests: `team-a/sample`, uid `uid-1`, generation 1, no status.
    pub(crate) fn sample() -> Self {
        let mut run = Self::new(
            "sample",
            serde_json::from_value(serde_json::json!({
                "model": "demo/tiny-llama", "trainDataPath": "s3://data/train.jsonl", "saveFolder": "s3://out/team-a"
            }))
            .unwrap(),
        );
        run.metadata.namespace = Some("team-a".into());
        run.metadata.uid = Some("uid-1".into());
        run.metadata.generation = Some(1);
        run
    }
}
