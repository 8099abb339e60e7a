//! `FinetuneRuntime`: how a family of models is trained. Admins own it; it is the only place with an image and a pod's shape.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// Which compiler writes the training configuration.
#[derive(Serialize, Deserialize, schemars::JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    /// LLM Foundry on Composer.
    LlmFoundry,
}

/// How a family of models is trained.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "finetune.dev",
    version = "v1alpha1",
    kind = "FinetuneRuntime",
    shortname = "ftrt",
    category = "ml",
    derive = "PartialEq",
    doc = "How a family of models is trained: engine, image and the shape of the pods.",
    printcolumn(name = "Engine", type_ = "string", json_path = ".spec.engine"),
    printcolumn(name = "Image", type_ = "string", json_path = ".spec.image")
)]
#[serde(rename_all = "camelCase")]
pub struct FinetuneRuntimeSpec {
    /// llm-foundry.
    pub engine: Engine,

    /// Image of the train and register stages; pin it by digest.
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^[a-zA-Z0-9][-._:/@a-zA-Z0-9]*$"))]
    pub image: String,

    /// Always, IfNotPresent or Never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<PullPolicy>,

    /// Program and arguments before `train` or `register`. Not set: `python -m finetune_llmfoundry`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 512)))]
    pub command: Vec<String>,

    /// Resource that counts GPUs.
    #[serde(default = "gpu_resource")]
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[a-z0-9]([-./a-z0-9]*[a-z0-9])?$"))]
    pub gpu_resource: String,

    /// Node label whose value is a GPU type.
    #[serde(default = "gpu_type_label")]
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[a-zA-Z0-9]([-._/a-zA-Z0-9]*[a-zA-Z0-9])?$"))]
    pub gpu_type_label: String,

    /// Seconds from SIGTERM to SIGKILL for a checkpoint to be saved and uploaded: its size over the bandwidth plus one long batch.
    #[serde(default = "grace_seconds")]
    #[schemars(range(min = 30, max = 86_400))]
    pub termination_grace_seconds: i64,

    /// Overrides of the pods, for the admin: nodeSelector, tolerations, affinity, volumes, volumeMounts, env, imagePullSecrets, runtimeClassName, schedulerName,
    /// priorityClassName, labels, annotations. Volumes, mounts and environment apply to all three stages, imagePullSecrets to training and registration, the
    /// rest to training. Anything else is refused.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(transform = free_form, extend("maxProperties" = 16))]
    pub pod_overrides: BTreeMap<String, serde_json::Value>,

    /// Engine settings that are merged below what the operator computes, for example other betas: `{"optimizer": {"betas": [0.9, 0.99]}}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(transform = free_form, extend("maxProperties" = 64))]
    pub engine_defaults: BTreeMap<String, serde_json::Value>,
}

/// When an image is pulled.
#[derive(Serialize, Deserialize, schemars::JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    /// Each time.
    Always,
    /// When the node lacks it.
    IfNotPresent,
    /// Never: the node has it.
    Never,
}

/// Keeps what is below the map's own keys: with `additionalProperties` the API server would prune it.
fn free_form(schema: &mut schemars::Schema) {
    schema.remove("additionalProperties");
    schema.insert("x-kubernetes-preserve-unknown-fields".to_owned(), true.into());
}

fn gpu_resource() -> String {
    "nvidia.com/gpu".to_owned()
}

fn gpu_type_label() -> String {
    "nvidia.com/gpu.product".to_owned()
}

fn grace_seconds() -> i64 {
    600
}

#[cfg(test)]
impl FinetuneRuntimeSpec {
    /// A runtime for tests.
    pub(crate) fn sample() -> Self {
        serde_json::from_value(serde_json::json!({"engine": "llm-foundry", "image": "trainer@sha256:00", "terminationGraceSeconds": 60})).unwrap()
    }
}
