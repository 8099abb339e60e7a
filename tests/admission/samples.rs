//! Specs of the three kinds: the smallest, and some with a value in every field of the schema.

use finetune_operator::api::crd;
use serde_json::{Value, json};

/// The fields that a run must have.
pub(crate) fn smallest_run() -> Value {
    json!({"model": "demo/tiny-llama", "trainDataPath": "s3://data/train.jsonl", "saveFolder": "s3://out/team-a"})
}

/// For each field of a run's spec: what must stand beside it, its value with all that is below it, and another such value.
pub(crate) fn run_fields() -> Vec<(&'static str, Value, Value, Value)> {
    let tracker = json!({"experimentTracker": {"mlflow": {"trackingUri": "databricks"}}});
    vec![
        ("model", json!({}), json!("demo/tiny-llama"), json!("other")),
        ("trainDataPath", json!({}), json!("s3://data/train.jsonl"), json!("s3://data/other.jsonl")),
        ("saveFolder", json!({}), json!("s3://out/team-a"), json!("s3://out/other")),
        ("taskType", json!({}), json!("CHAT_COMPLETION"), json!("CONTINUED_PRETRAIN")),
        ("evalDataPath", json!({}), json!("s3://data/eval.jsonl"), json!("s3://data/other.jsonl")),
        ("evalPrompts", tracker.clone(), json!(["Why?"]), json!(["Why not?"])),
        ("customWeightsPath", json!({}), json!("s3://out/ep1-ba20"), json!("s3://out/ep2-ba40")),
        ("trainingDuration", json!({}), json!("3ep"), json!("60ba")),
        ("learningRate", json!({}), json!(1e-3), json!(1e-4)),
        ("contextLength", json!({}), json!(256), json!(512)),
        (
            "experimentTracker",
            json!({}),
            json!({"mlflow": {"experimentPath": "/a", "modelRegistryPath": "a.b", "trackingUri": "http://a"}, "wandb": {"project": "a", "entity": "a"}}),
            json!({"mlflow": {"experimentPath": "/b", "modelRegistryPath": "a.b.c", "trackingUri": "databricks"}, "wandb": {"project": "b", "entity": "b"}}),
        ),
        ("registerTo", tracker, json!("main.models"), json!("main.models.mine")),
        ("disableCredentialsCheck", json!({}), json!(true), json!(false)),
        ("validateInputs", json!({}), json!(false), json!(true)),
        ("dataPrepClusterId", json!({}), json!("0101-a"), json!("0101-b")),
        (
            "secrets",
            json!({}),
            json!([{"name": "a", "kind": "s3", "key": "A", "profile": "a"}]),
            json!([{"name": "b", "kind": "hf", "key": "B", "profile": "b"}]),
        ),
        ("s3", json!({}), json!({"endpointUrl": "http://a:9000", "region": "a"}), json!({"endpointUrl": "https://b", "region": "b"})),
        ("serviceAccountName", json!({}), json!("trainer"), json!("other")),
        ("compute", json!({}), json!({"nodes": 1, "gpusPerNode": 8, "gpuType": "A"}), json!({"nodes": 2, "gpusPerNode": 4, "gpuType": "B"})),
        ("checkpointEvery", json!({}), json!("10ba"), json!("1ep")),
        ("keepCheckpoints", json!({}), json!(1), json!(2)),
        ("packing", json!({}), json!(false), json!(true)),
        ("seed", json!({}), json!(1), json!(2)),
        ("suspend", json!({}), json!(true), json!(false)),
        (
            "scheduling",
            json!({}),
            json!({"priority": "low", "maxRetries": 1, "maxPreemptions": 1, "maxDurationHours": 1.5, "queue": "a"}),
            json!({"priority": "lowest", "maxRetries": 2, "maxPreemptions": 2, "maxDurationHours": 2.5, "queue": "b"}),
        ),
    ]
}

/// A model's spec with every field set.
pub(crate) fn model() -> Value {
    json!({
        "name": "demo/tiny-llama", "displayName": "Tiny Llama", "maxContextLength": 512, "defaultContextLength": 256, "weights": "hf://demo/tiny-llama",
        "revision": "main", "chatTemplate": "{{ messages }}", "padToken": "<pad>", "trustRemoteCode": false, "gated": true, "parameters": 140_000,
        "runtime": "llm-foundry",
        "compute": [{
            "taskTypes": ["CHAT_COMPLETION"], "maxContextLength": 512, "nodes": 1, "gpusPerNode": 0, "gpuType": "A", "gpuMemoryGib": 80, "globalBatchSize": 8,
            "microbatchSize": 8, "precision": "fp32", "cpus": 1, "memoryGib": 4, "scratchGib": 4
        }]
    })
}

/// A runtime's spec with every field set.
pub(crate) fn runtime() -> Value {
    json!({
        "engine": "llm-foundry", "image": "trainer@sha256:00", "imagePullPolicy": "Always", "command": ["python"], "gpuResource": "nvidia.com/gpu",
        "gpuTypeLabel": "nvidia.com/gpu.product", "terminationGraceSeconds": 60, "podOverrides": {"nodeSelector": {"a": "b"}},
        "engineDefaults": {"optimizer": {"betas": [0.9, 0.99]}}
    })
}

/// The schema of the spec of the kind with this plural, as JSON.
pub(crate) fn spec_schema(plural: &str) -> Value {
    let (_, definition) = crd::all().into_iter().find(|(file, _)| *file == format!("{plural}.yaml")).expect("one of the three kinds");
    let version = definition.spec.versions.into_iter().next().expect("a version");
    serde_json::to_value(version).expect("a schema is JSON")["schema"]["openAPIV3Schema"]["properties"]["spec"].clone()
}

/// A value's own path and those of all that is below it, with their schemas; a list is entered at its first item.
pub(crate) fn nodes(path: &str, schema: &Value) -> Vec<(String, Value)> {
    let mut found = vec![(path.to_owned(), schema.clone())];
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        found.extend(nodes(&format!("{path}/{name}"), field));
    }
    if schema["items"].is_object() {
        found.extend(nodes(&format!("{path}/0"), &schema["items"]));
    }
    found
}
