//! Environment variables of the pods and who may set which: pure.

use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, SecretKeySelector};

/// Variables that only the operator sets, besides those that begin with one of `PREFIXES`.
const NAMES: [&str; 36] = [
    "HOME",
    "TMPDIR",
    "HF_HOME",
    "AWS_ENDPOINT_URL",
    "S3_ENDPOINT_URL",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_CONFIG_FILE",
    "AWS_PROFILE",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "AZURE_STORAGE_ACCOUNT_NAME",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "OCI_CLI_CONFIG_FILE",
    "OCI_CLI_KEY_FILE",
    "DATABRICKS_HOST",
    "DATABRICKS_TOKEN",
    "HF_TOKEN",
    "WANDB_API_KEY",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_URI",
    "MLFLOW_RUN_ID",
    "NODE_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "JOB_COMPLETION_INDEX",
];
const PREFIXES: [&str; 2] = ["FINETUNE_", "KUBEFLOW_TRAINER_SERVER_"];

/// Whether only the operator, or the trainer's launcher, sets the variable: neither a Secret of kind env nor an override may.
#[must_use]
pub fn is_reserved(name: &str) -> bool {
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// A variable with exactly this value: the kubelet would read `$(NAME)` in it as another variable, a credential for example.
pub(super) fn literal(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value.replace('$', "$$")), value_from: None }
}

/// A variable from the key of a Secret.
pub(super) fn secret(name: &str, secret: &str, key: &str, optional: bool) -> EnvVar {
    let selector = SecretKeySelector { name: secret.to_owned(), key: key.to_owned(), optional: Some(optional) };
    let source = EnvVarSource { secret_key_ref: Some(selector), ..EnvVarSource::default() };
    EnvVar { name: name.to_owned(), value: None, value_from: Some(source) }
}

/// A variable from a field of the pod.
pub(super) fn field(name: &str, path: &str) -> EnvVar {
    let selector = ObjectFieldSelector { api_version: None, field_path: path.to_owned() };
    let source = EnvVarSource { field_ref: Some(selector), ..EnvVarSource::default() };
    EnvVar { name: name.to_owned(), value: None, value_from: Some(source) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_never_expands_to_another_variable() {
        assert_eq!(literal("A", "http://h/$(AWS_SECRET_ACCESS_KEY)$x").value.as_deref(), Some("http://h/$$(AWS_SECRET_ACCESS_KEY)$$x"));
    }
}
