//! Which Secrets a run uses together, and why some may not meet: names only, never a value. Pure.

use crate::api::secret_ref::{SecretKind, SecretRef};
use crate::controller::build::environment;

use super::resolve::Refusal;

const MOST: usize = 16;

/// Variables that change which program runs or whom it talks to, besides those that the stages set themselves. A leading or
/// trailing `*` matches anything.
const RESERVED: [&str; 15] = [
    "LD_*",
    "PYTHON*",
    "GLIBC_TUNABLES",
    "BASH_ENV",
    "ENV",
    "PATH",
    "HF_ENDPOINT",
    "LOCAL_*",
    "KUBE*",
    "AWS_ENDPOINT*",
    "AWS_CONTAINER_*",
    "MLFLOW_REGISTRY_URI",
    "MLFLOW_EXPERIMENT_*",
    "WANDB_BASE_URL",
    "*_PROXY",
];

/// Names of the Secrets, each once, or why they cannot be used together.
pub(super) fn names(secrets: &[SecretRef]) -> Result<Vec<String>, Refusal> {
    let refuse = |reason, message| Err(Refusal::new(reason, "spec.secrets", message));
    if secrets.len() > MOST {
        return refuse(
            "TooManySecrets",
            format!(
                "spec.secrets and the namespace's ConfigMap finetune-defaults name {} Secrets together, and at most {MOST} are possible: remove some",
                secrets.len()
            ),
        );
    }
    let mut names: Vec<String> = Vec::new();
    for (index, secret) in secrets.iter().enumerate() {
        if !is_object_name(&secret.name) {
            return refuse(
                "InvalidSecret",
                format!("spec.secrets: {:?} is not the name of a Secret: use lower-case letters, digits, dashes and dots", shown(&secret.name)),
            );
        }
        if let Some(problem) = key_problem(secret) {
            return refuse("InvalidSecret", format!("spec.secrets: Secret {}: {problem}", secret.name));
        }
        let clashes = |other: &&SecretRef| {
            other.kind == secret.kind
                && match secret.kind {
                    SecretKind::Env => other.key == secret.key,
                    SecretKind::Mounted => false,
                    _ => true,
                }
        };
        if let Some(other) = secrets[..index].iter().find(clashes) {
            let what = secret
                .key
                .as_ref()
                .filter(|_| secret.kind == SecretKind::Env)
                .map_or_else(|| format!("kind {}", kind(secret.kind)), |key| format!("variable {key}"));
            return refuse(
                "AmbiguousSecrets",
                format!("spec.secrets: Secrets {} and {} are both of {what}, and only one can be used: remove one", other.name, secret.name),
            );
        }
        if !names.contains(&secret.name) {
            names.push(secret.name.clone());
        }
    }
    Ok(names)
}

fn key_problem(secret: &SecretRef) -> Option<String> {
    let key = secret.key.as_deref();
    match (secret.kind, key) {
        (SecretKind::Env | SecretKind::Mounted, None) => Some(format!("kind {} needs key: the key of the Secret to use", kind(secret.kind))),
        (SecretKind::Env, Some(key)) if !is_variable(key) => {
            Some(format!("key {:?} cannot be the name of an environment variable: use letters, digits and _, or kind mounted", shown(key)))
        }
        (SecretKind::Env, Some(key)) if is_reserved(key) => {
            Some(format!("the variable {} is set by the operator or changes what runs: choose another name", shown(key)))
        }
        (SecretKind::Mounted, Some("." | "..")) => Some("key is not the name of a file: name a key of the Secret".to_owned()),
        _ => None,
    }
}

fn is_variable(key: &str) -> bool {
    key.len() <= 253 && !key.starts_with(|c: char| c.is_ascii_digit()) && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn is_reserved(key: &str) -> bool {
    let upper = key.to_ascii_uppercase();
    environment::is_reserved(key)
        || RESERVED.iter().any(|pattern| match (pattern.strip_suffix('*'), pattern.strip_prefix('*')) {
            (Some(start), _) => upper.starts_with(start),
            (None, Some(end)) => upper.ends_with(end),
            (None, None) => upper == *pattern,
        })
}

fn is_object_name(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    !name.is_empty()
        && name.len() <= 253
        && name.chars().all(inner)
        && !name.starts_with(['-', '.'])
        && !name.ends_with(['-', '.'])
        && !name.contains("..")
}

fn kind(kind: SecretKind) -> String {
    serde_json::to_value(kind).ok().and_then(|kind| kind.as_str().map(str::to_owned)).unwrap_or_default()
}

fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(name: &str, kind: SecretKind, key: Option<&str>) -> SecretRef {
        SecretRef { name: name.to_owned(), kind, key: key.map(str::to_owned), profile: None }
    }

    fn reason(secrets: &[SecretRef]) -> Option<&'static str> {
        names(secrets).err().map(|refusal| refusal.reason)
    }

    #[test]
    fn each_secret_is_named_once() {
        let secrets = [secret("a", SecretKind::S3, None), secret("b", SecretKind::Env, Some("ONE")), secret("b", SecretKind::Env, Some("TWO"))];
        assert_eq!(names(&secrets), Ok(vec!["a".to_owned(), "b".to_owned()]));
    }

    #[test]
    fn two_secrets_for_one_variable_are_ambiguous() {
        assert_eq!(reason(&[secret("a", SecretKind::S3, None), secret("b", SecretKind::S3, None)]), Some("AmbiguousSecrets"));
        assert_eq!(reason(&[secret("a", SecretKind::Env, Some("X")), secret("b", SecretKind::Env, Some("X"))]), Some("AmbiguousSecrets"));
        assert_eq!(reason(&[secret("a", SecretKind::Mounted, Some("x")), secret("b", SecretKind::Mounted, Some("x"))]), None);
    }

    #[test]
    fn the_seventeenth_secret_is_one_too_many() {
        let secrets: Vec<_> = (0..17).map(|i| secret(&format!("s{i}"), SecretKind::Mounted, Some("k"))).collect();
        assert_eq!(reason(&secrets[..16]), None);
        assert_eq!(reason(&secrets), Some("TooManySecrets"));
    }

    #[test]
    fn a_variable_cannot_redirect_the_program_or_its_endpoints() {
        for key in [
            "LD_PRELOAD",
            "PYTHONPATH",
            "PATH",
            "https_proxy",
            "HTTPS_PROXY",
            "AWS_ENDPOINT_URL_S3",
            "MLFLOW_TRACKING_URI",
            "FINETUNE_STAGE",
            "KUBERNETES_SERVICE_HOST",
            "1X",
            "HF_TOKEN",
            "a.b",
            "DATABRICKS_HOST",
        ] {
            assert_eq!(reason(&[secret("a", SecretKind::Env, Some(key))]), Some("InvalidSecret"), "{key}");
        }
        for key in ["OPENAI_API_KEY", "MY_PATH", "ENVIRONMENT"] {
            assert_eq!(reason(&[secret("a", SecretKind::Env, Some(key))]), None, "{key}");
        }
    }

    #[test]
    fn a_name_that_is_no_object_name_never_becomes_a_path() {
        for name in ["", "../x", "a/b", "A", "a..b", "-a"] {
            assert_eq!(reason(&[secret(name, SecretKind::S3, None)]), Some("InvalidSecret"), "{name}");
        }
    }
}
