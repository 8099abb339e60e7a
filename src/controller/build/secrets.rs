//! How each kind of Secret reaches the pods, as files and as variables: pure; `docs/contract.md` section 4 is the table.

use k8s_openapi::api::core::v1::EnvVar;

use super::attachment::{self, Attachment};
use super::environment::{self, is_reserved, literal};
use crate::api::secret_ref::{SecretKind, SecretRef};

/// Files and variables of the Secrets of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Projection {
    pub(super) attachments: Vec<Attachment>,
    pub(super) env: Vec<EnvVar>,
}

/// Folder that a Secret is mounted at.
pub(super) fn path(secret: &str) -> String {
    format!("{}/secrets/{secret}", attachment::RUN)
}

/// Projects `secrets`. With `required` a pod does not start before they and their keys are there.
/// Of two Secrets that set one variable the first counts: a run's own stand before those of its namespace.
pub(super) fn project(secrets: &[SecretRef], required: bool) -> Projection {
    let mut projection = Projection::default();
    for secret in secrets {
        let path = path(&secret.name);
        if !projection.attachments.iter().any(|a| a.mount.mount_path == path) {
            projection.attachments.push(attachment::secret(projection.attachments.len(), &secret.name, path, !required));
        }
        projection.env.extend(variables(secret, required));
    }
    projection
}

fn variables(secret: &SecretRef, required: bool) -> Vec<EnvVar> {
    let file = |name: &str, key: &str| literal(name, &format!("{}/{key}", path(&secret.name)));
    let key = |key: &str| environment::secret(key, &secret.name, key, !required);
    let either = |key: &str| environment::secret(key, &secret.name, key, true);
    match secret.kind {
        SecretKind::S3 => {
            let mut all = vec![
                either("AWS_ACCESS_KEY_ID"),
                either("AWS_SECRET_ACCESS_KEY"),
                either("AWS_SESSION_TOKEN"),
                file("AWS_SHARED_CREDENTIALS_FILE", "credentials"),
                file("AWS_CONFIG_FILE", "config"),
            ];
            all.extend(secret.profile.as_deref().map(|profile| literal("AWS_PROFILE", profile)));
            all
        }
        SecretKind::Gcp => vec![file("GOOGLE_APPLICATION_CREDENTIALS", "credentials")],
        SecretKind::Azure => vec![key("AZURE_STORAGE_ACCOUNT_NAME"), either("AZURE_STORAGE_ACCOUNT_KEY"), either("AZURE_STORAGE_SAS_TOKEN")],
        SecretKind::Oci => vec![file("OCI_CLI_CONFIG_FILE", "config"), file("OCI_CLI_KEY_FILE", "key_file")],
        SecretKind::Databricks => vec![key("DATABRICKS_HOST"), key("DATABRICKS_TOKEN")],
        SecretKind::Hf => vec![key("HF_TOKEN")],
        SecretKind::Wandb => vec![key("WANDB_API_KEY")],
        SecretKind::Mlflow => vec![either("MLFLOW_TRACKING_USERNAME"), either("MLFLOW_TRACKING_PASSWORD"), either("MLFLOW_TRACKING_TOKEN")],
        SecretKind::Env => secret.key.as_deref().filter(|name| !is_reserved(name)).map(key).into_iter().collect(),
        SecretKind::Mounted => Vec::new(),
    }
}
