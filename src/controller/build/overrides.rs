//! Reads a runtime's `podOverrides` strictly: pure; every refusal is a sentence that names what is refused.

use std::collections::BTreeMap;

/// What an admin may add to the pods of a runtime.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodOverrides {}

/// Reads `spec.podOverrides`; the error is a sentence for the status of a run.
pub fn parse(overrides: &BTreeMap<String, serde_json::Value>) -> Result<PodOverrides, String> {
    match overrides.keys().next() {
        None => Ok(PodOverrides::default()),
        Some(key) => Err(format!("podOverrides.{key} is not allowed")),
    }
}
