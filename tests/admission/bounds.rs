//! Derived from the schemas: each bound, pattern, choice and type of each field is enforced, and the refusal names the field.

use axum::http::Method;
use serde_json::{Value, json};

use crate::request::{GROUP, merged, run, runs, send};
use crate::{cluster, samples};

#[tokio::test]
async fn every_bound_in_a_runs_schema_is_enforced_and_the_field_named() {
    let cluster = cluster().await;
    let client = cluster.client().await;
    let path = format!("{}?dryRun=All", runs(&cluster.namespace("bounds").await));
    for (field, beside, value, _) in samples::run_fields() {
        let spec = merged(&merged(&samples::smallest_run(), &beside), &json!({field: value}));
        let object = |spec| run("sample", &spec);
        let fields = samples::nodes(&format!("/{field}"), &samples::spec_schema("finetuneruns")["properties"][field]);
        each_bound_holds(&client, &path, &spec, &fields, object).await;
    }
}

#[tokio::test]
async fn every_bound_in_a_models_and_a_runtimes_schema_is_enforced_and_the_field_named() {
    let client = cluster().await.client().await;
    for (plural, kind, spec) in [("finetunemodels", "FinetuneModel", samples::model()), ("finetuneruntimes", "FinetuneRuntime", samples::runtime())] {
        let object = |spec| json!({"apiVersion": "finetune.dev/v1alpha1", "kind": kind, "metadata": {"name": "sample"}, "spec": spec});
        let fields = samples::nodes("", &samples::spec_schema(plural));
        each_bound_holds(&client, &format!("{GROUP}/{plural}?dryRun=All"), &spec, &fields[1..], object).await;
    }
}

async fn each_bound_holds(client: &kube::Client, path: &str, spec: &Value, fields: &[(String, Value)], object: impl Fn(Value) -> Value) {
    send(client, Method::POST, path, &object(spec.clone())).await.expect("the sample is valid");
    for (pointer, schema) in fields {
        for wrong in violations(schema, spec.pointer(pointer).unwrap_or_else(|| panic!("the sample lacks {pointer}"))) {
            let mut changed = spec.clone();
            *changed.pointer_mut(pointer).expect("just read") = wrong.clone();
            let refused = send(client, Method::POST, path, &object(changed)).await.err().unwrap_or_default();
            let named = format!("spec{pointer}").replace("/0", "[0]").replace('/', ".");
            let shown = wrong.to_string().chars().take(60).collect::<String>();
            assert!(refused.iter().any(|(field, _)| *field == named), "{named}: {shown} was answered with {refused:?}");
        }
    }
}

/// One value for each keyword of the schema that breaks it.
fn violations(schema: &Value, valid: &Value) -> Vec<Value> {
    let limit = |keyword: &str| schema[keyword].as_f64();
    let count = |keyword: &str| schema[keyword].as_u64().and_then(|count| usize::try_from(count).ok());
    let whole = |value: f64| serde_json::from_str(&format!("{value:.0}")).expect("a number");
    let number = |value: f64| if schema["type"] == "integer" { whole(value) } else { json!(value) };
    let mut wrong = vec![if schema["type"] == "string" { json!(7) } else { json!("seven") }];
    wrong.extend(count("minLength").map(|length| json!("a".repeat(length - 1))));
    wrong.extend(count("maxLength").map(|length| json!("a".repeat(length + 1))));
    wrong.extend(schema["pattern"].as_str().map(|_| json!("\u{1}")));
    wrong.extend(schema["enum"].as_array().map(|_| json!("nonsense")));
    wrong.extend(limit("minimum").map(|minimum| number(minimum - 1.0)));
    wrong.extend(limit("maximum").map(|maximum| number(maximum + 1.0)));
    wrong.extend(count("minItems").map(|_| json!([])));
    wrong.extend(count("maxItems").map(|items| vec![valid[0].clone(); items + 1].into()));
    wrong.extend(count("maxProperties").map(|size| (0..=size).map(|n| (format!("k{n}"), json!(n))).collect::<serde_json::Map<_, _>>().into()));
    wrong
}
