//! References to Secrets: names only, never values, never a namespace.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// What a Secret holds, which decides the keys it must have and how it reaches the pods. `docs/contract.md` section 4 has the table.
#[derive(Serialize, Deserialize, schemars::JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[serde(rename_all = "lowercase")]
pub enum SecretKind {
    /// S3 and S3-compatible stores.
    S3,
    /// Google Cloud Storage.
    Gcp,
    /// Azure Blob Storage.
    Azure,
    /// Oracle Cloud object storage.
    Oci,
    /// Databricks workspace.
    Databricks,
    /// Hugging Face hub.
    Hf,
    /// Weights & Biases.
    Wandb,
    /// `MLflow` server.
    Mlflow,
    /// One environment variable.
    Env,
    /// One file.
    Mounted,
}

/// One Secret of the run's own namespace.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(self.kind in ['env', 'mounted']) || has(self.key)").message("secrets of kind env and mounted need key: the key of the Secret to use"))]
pub struct SecretRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$"))]
    pub name: String,

    /// What the Secret holds: s3, gcp, azure, oci, databricks, hf, wandb, mlflow, env or mounted.
    pub kind: SecretKind,

    /// Key of the Secret, for kinds env (also the variable's name) and mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub key: Option<String>,

    /// Profile in the `credentials` file of a Secret of kind s3; `default` when not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[-_a-zA-Z0-9]+$"))]
    pub profile: Option<String>,
}
