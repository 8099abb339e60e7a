//! The `ConfigMap` `finetune-defaults` of a namespace: names and addresses that its runs use when they say nothing else.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::run::{FinetuneRunSpec, S3};
use super::secret_ref::SecretRef;

/// Name of the `ConfigMap`.
pub const NAME: &str = "finetune-defaults";

/// Its only key, in YAML.
pub const KEY: &str = "defaults.yaml";

const MAX_BYTES: usize = 16 * 1024;
const MAX_SECRETS: usize = 16;

/// What a namespace sets for all its runs.
#[derive(Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NamespaceDefaults {
    /// Secrets that every run uses unless it names one of the same kind itself (kinds env and mounted are always added).
    #[serde(default)]
    pub secrets: Vec<SecretRef>,
    /// The store of runs without `spec.s3`.
    #[serde(default)]
    pub s3: Option<S3>,
    /// The server of runs without `experimentTracker.mlflow.trackingUri`.
    #[serde(default)]
    pub mlflow_tracking_uri: Option<String>,
}

impl NamespaceDefaults {
    /// Reads the `ConfigMap`'s data; the error is a sentence for the run's status.
    pub fn parse(data: &BTreeMap<String, String>) -> Result<Self, String> {
        let Some(text) = data.get(KEY) else { return Err(format!("ConfigMap {NAME} has no key {KEY}")) };
        if text.len() > MAX_BYTES {
            return Err(format!("ConfigMap {NAME}, key {KEY}: longer than {MAX_BYTES} bytes"));
        }
        let defaults: Self = serde_saphyr::from_str(text).map_err(|error| format!("ConfigMap {NAME}, key {KEY}: {error}"))?;
        if defaults.secrets.len() > MAX_SECRETS {
            return Err(format!("ConfigMap {NAME}, key {KEY}: more than {MAX_SECRETS} secrets"));
        }
        Ok(defaults)
    }

    /// The run's own Secrets, then those of the namespace whose kind the run does not name.
    #[must_use]
    pub fn secrets(&self, spec: &FinetuneRunSpec) -> Vec<SecretRef> {
        let named = |default: &&SecretRef| !spec.secrets.iter().any(|own| own.kind == default.kind && own.key == default.key);
        spec.secrets.iter().chain(self.secrets.iter().filter(named)).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::FinetuneRun;
    use crate::api::secret_ref::SecretKind;

    fn parse(text: &str) -> Result<NamespaceDefaults, String> {
        NamespaceDefaults::parse(&[(KEY.to_owned(), text.to_owned())].into())
    }

    #[test]
    fn a_runs_own_secret_replaces_the_default_of_its_kind_only() {
        let defaults = parse("secrets:\n- {name: s3-default, kind: s3}\n- {name: hub, kind: hf}\n").unwrap();
        let mut spec = FinetuneRun::sample().spec;
        spec.secrets = vec![SecretRef { name: "mine".into(), kind: SecretKind::S3, key: None, profile: None }];
        let names: Vec<_> = defaults.secrets(&spec).into_iter().map(|s| s.name).collect();
        assert_eq!(names, ["mine", "hub"]);
    }

    #[test]
    fn an_unknown_key_is_named() {
        let error = parse("secret: []\n").unwrap_err();
        assert!(error.starts_with("ConfigMap finetune-defaults, key defaults.yaml: ") && error.contains("secret"), "{error}");
    }
}
