//! The three CRDs as they are shipped: the derived schema plus the rules that are generated from it.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceDefinition, JSONSchemaProps, ValidationRule};
use kube::CustomResourceExt;

use super::{FinetuneModel, FinetuneRun, FinetuneRuntime};

/// Fields of a run's spec that may change after it was accepted.
pub const MUTABLE: [&str; 2] = ["suspend", "scheduling"];

/// File name below `crds/` and definition of each kind.
#[must_use]
pub fn all() -> Vec<(&'static str, CustomResourceDefinition)> {
    vec![("finetunemodels.yaml", FinetuneModel::crd()), ("finetuneruns.yaml", finetune_run()), ("finetuneruntimes.yaml", FinetuneRuntime::crd())]
}

/// `FinetuneRun` with one immutability rule for each property of its spec: presence and value are compared, so that adding or
/// removing an optional field is refused as well as changing it.
fn finetune_run() -> CustomResourceDefinition {
    let mut crd = FinetuneRun::crd();
    for version in &mut crd.spec.versions {
        let Some(root) = version.schema.as_mut().and_then(|s| s.open_api_v3_schema.as_mut()) else { continue };
        let rules = immutability(root);
        root.x_kubernetes_validations.get_or_insert_default().extend(rules);
    }
    crd
}

fn immutability(root: &JSONSchemaProps) -> Vec<ValidationRule> {
    let spec = root.properties.as_ref().and_then(|p| p.get("spec"));
    let fields = spec.and_then(|s| s.properties.as_ref()).into_iter().flat_map(|p| p.keys());
    fields
        .filter(|field| !MUTABLE.contains(&field.as_str()))
        .map(|field| ValidationRule {
            rule: format!(
                "!has(oldSelf.status) || !has(oldSelf.status.specHash) || (has(self.spec.{field}) == has(oldSelf.spec.{field}) && \
                 (!has(self.spec.{field}) || self.spec.{field} == oldSelf.spec.{field}))"
            ),
            message: Some(format!("{field} cannot change once the run is accepted: make a new run")),
            field_path: Some(format!(".spec.{field}")),
            reason: Some("FieldValueForbidden".to_owned()),
            ..ValidationRule::default()
        })
        .collect()
}
