//! What a run was resolved against, kept once in a `ConfigMap` so that later edits by an admin touch new runs only: pure.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::api::secret_ref::SecretRef;
use crate::api::{FinetuneModelSpec, FinetuneRunSpec, FinetuneRuntimeSpec, crd, names};

/// Key of the snapshot in its `ConfigMap`.
pub const KEY: &str = "snapshot.json";

/// Model, runtime and Secret names as they were when the run was accepted.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Snapshot {
    /// The model.
    pub model: FinetuneModelSpec,
    /// The runtime.
    pub runtime: FinetuneRuntimeSpec,
    /// Secrets in use: the run's own and the namespace's defaults.
    pub secrets: Vec<SecretRef>,
}

impl Snapshot {
    /// Hash of the fixed part of `spec` and of this snapshot: what a passed preflight is bound to.
    #[must_use]
    pub fn spec_hash(&self, spec: &FinetuneRunSpec) -> String {
        let mut fixed = serde_json::to_value(spec).unwrap_or_default();
        if let Some(fields) = fixed.as_object_mut() {
            for field in crd::MUTABLE {
                fields.remove(field);
            }
        }
        let both = serde_json::json!([fixed, self]);
        names::hex(&Sha256::digest(both.to_string()))[..32].to_owned()
    }
}

#[cfg(test)]
impl Snapshot {
    /// The sample model and runtime with one S3 Secret.
    pub(crate) fn sample() -> Self {
        let secrets = serde_json::from_value(serde_json::json!([{"name": "s3-credentials", "kind": "s3"}])).unwrap();
        Self { model: FinetuneModelSpec::sample(), runtime: FinetuneRuntimeSpec::sample(), secrets }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::FinetuneRun;

    #[test]
    fn suspending_and_rescheduling_keep_the_hash_and_everything_else_moves_it() {
        let run = FinetuneRun::sample();
        let snapshot = Snapshot::sample();
        let hash = snapshot.spec_hash(&run.spec);
        let mut same = run.spec.clone();
        same.suspend = true;
        same.scheduling.max_retries = 9;
        assert_eq!(snapshot.spec_hash(&same), hash);
        let mut other = run.spec.clone();
        other.learning_rate = 1e-3;
        assert_ne!(snapshot.spec_hash(&other), hash);
        let mut edited = snapshot.clone();
        edited.runtime.image = "other".to_owned();
        assert_ne!(edited.spec_hash(&run.spec), hash);
    }
}
