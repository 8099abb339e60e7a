//! `crds/` says what the types say. `UPDATE=1 cargo test --test crds` rewrites it.

use std::path::Path;

use finetune_operator::api::crd;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool};

#[test]
fn the_files_are_what_the_types_say_and_each_stays_below_200_kb() {
    for (file, definition) in crd::all() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("crds").join(file);
        let yaml = serde_saphyr::to_string(&definition).expect("a CRD serializes");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, &yaml).expect("crds/ is writable");
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap_or_default(), yaml, "{file} is stale: UPDATE=1 cargo test --test crds");
        assert!(yaml.len() < 200_000, "{file} has {} bytes", yaml.len());
    }
}

/// One object with a huge value must stop neither the API server's rules nor the operator.
#[test]
fn every_field_of_a_spec_and_every_string_list_and_map_of_a_status_is_bounded() {
    for (file, definition) in crd::all() {
        for version in definition.spec.versions {
            let root = version.schema.and_then(|schema| schema.open_api_v3_schema).expect("each version has a schema");
            for (part, schema) in root.properties.expect("an object has fields") {
                unbounded(&part, &schema, &mut |path, numbers| {
                    let known = path.starts_with("status.conditions") || (numbers && path.starts_with("status."));
                    assert!(known, "{file}: {path} has no bound");
                });
            }
        }
    }
}

/// Calls `found` with the path of each value without a bound, and whether it is a number.
fn unbounded(path: &str, schema: &JSONSchemaProps, found: &mut impl FnMut(&str, bool)) {
    let bounded = match schema.type_.as_deref() {
        Some("string") => schema.max_length.is_some() || schema.enum_.is_some() || schema.format.is_some(),
        Some("array") => schema.max_items.is_some(),
        Some("integer" | "number") => schema.minimum.is_some() && schema.maximum.is_some(),
        Some("object") => schema.properties.is_some() || schema.max_properties.is_some(),
        _ => true,
    };
    if !bounded {
        found(path, matches!(schema.type_.as_deref(), Some("integer" | "number")));
    }
    for (name, field) in schema.properties.iter().flatten() {
        unbounded(&format!("{path}.{name}"), field, found);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
        unbounded(&format!("{path}[]"), items, found);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &schema.additional_properties {
        unbounded(&format!("{path}{{}}"), values, found);
    }
}
