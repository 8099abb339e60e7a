//! What a stored object shows: its defaults, its columns, what it can be selected by.

use std::collections::BTreeSet;

use axum::http::Method;
use serde_json::{Value, json};

use crate::request::{GROUP, get, merged, run, runs, send};
use crate::{cluster, samples};

#[tokio::test]
async fn the_api_server_finds_nothing_wrong_with_the_crds() {
    let client = cluster().await.client().await;
    for plural in ["finetuneruns", "finetunemodels", "finetuneruntimes"] {
        let crd = get(&client, &format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{plural}.finetune.dev"), "application/json").await;
        let conditions =
            crd["status"]["conditions"].as_array().expect("conditions").iter().map(|condition| json!([condition["type"], condition["status"]]));
        let conditions: BTreeSet<_> = conditions.map(|condition| condition.to_string()).collect();
        assert_eq!(conditions, [r#"["Established","True"]"#.to_owned(), r#"["NamesAccepted","True"]"#.to_owned()].into(), "{plural}");
    }
}

#[tokio::test]
async fn the_defaults_stand_in_a_stored_run() {
    let cluster = cluster().await;
    let path = runs(&cluster.namespace("stored").await);
    let stored = send(&cluster.client().await, Method::POST, &path, &run("smallest", &samples::smallest_run())).await.expect("it is valid");
    assert_eq!(
        stored["spec"],
        json!({
            "model": "demo/tiny-llama", "trainDataPath": "s3://data/train.jsonl", "saveFolder": "s3://out/team-a", "taskType": "INSTRUCTION_FINETUNE",
            "trainingDuration": "1ep", "learningRate": 5e-7, "serviceAccountName": "finetune-runner", "keepCheckpoints": 3, "packing": true, "seed": 17,
            "suspend": false, "scheduling": {"priority": "auto", "maxRetries": 3, "maxPreemptions": 100}
        })
    );
}

#[tokio::test]
async fn the_defaults_stand_in_a_stored_model_and_runtime() {
    let client = cluster().await.client().await;
    let stored = async |kind: &str, plural: &str, spec: &Value| {
        let object = json!({"apiVersion": "finetune.dev/v1alpha1", "kind": kind, "metadata": {"name": "smallest"}, "spec": spec});
        send(&client, Method::POST, &format!("{GROUP}/{plural}?dryRun=All"), &object).await.expect("it is valid")["spec"].clone()
    };
    let model = json!({"name": "a", "displayName": "A", "maxContextLength": 512, "weights": "hf://a/b", "parameters": 1, "runtime": "r",
        "compute": [{"gpusPerNode": 8, "globalBatchSize": 8}]});
    let defaults = json!({"trustRemoteCode": false, "gated": false,
        "compute": [{"gpusPerNode": 8, "globalBatchSize": 8, "nodes": 1, "precision": "amp_bf16", "cpus": 8, "memoryGib": 32, "scratchGib": 32}]});
    assert_eq!(stored("FinetuneModel", "finetunemodels", &model).await, merged(&model, &defaults));
    let runtime = json!({"engine": "llm-foundry", "image": "trainer"});
    let defaults = json!({"gpuResource": "nvidia.com/gpu", "gpuTypeLabel": "nvidia.com/gpu.product", "terminationGraceSeconds": 600});
    assert_eq!(stored("FinetuneRuntime", "finetuneruntimes", &runtime).await, merged(&runtime, &defaults));
}

#[tokio::test]
async fn what_an_admin_writes_freely_in_a_runtime_is_stored_whole() {
    let client = cluster().await.client().await;
    let object = json!({"apiVersion": "finetune.dev/v1alpha1", "kind": "FinetuneRuntime", "metadata": {"name": "free"}, "spec": samples::runtime()});
    let stored = send(&client, Method::POST, &format!("{GROUP}/finetuneruntimes?dryRun=All"), &object).await.expect("it is valid");
    assert_eq!(stored["spec"], samples::runtime());
}

#[tokio::test]
async fn kubectl_get_shows_model_phase_progress_eta_and_age() {
    let cluster = cluster().await;
    let client = cluster.client().await;
    let path = runs(&cluster.namespace("columns").await);
    send(&client, Method::POST, &path, &run("mine", &samples::smallest_run())).await.expect("it is valid");
    let status = json!({"phase": "Running", "reason": "Training", "attempt": 0, "progress": {"summary": "42%", "eta": "12min"},
        "registeredModel": {"name": "a.b.c", "version": "1", "uri": "models:/a.b.c/1"}});
    send(&client, Method::PATCH, &format!("{path}/mine/status"), &json!({"status": status})).await.expect("it is valid");
    let table = get(&client, &path, "application/json;as=Table;v=v1;g=meta.k8s.io").await;
    let columns = table["columnDefinitions"].as_array().expect("columns").iter().map(|column| json!([column["name"], column["priority"]]));
    let cells = table["rows"][0]["cells"].as_array().expect("cells");
    let shown: Vec<_> = columns.zip(cells).collect();
    let expected = [
        (json!(["Name", 0]), &json!("mine")),
        (json!(["Model", 0]), &json!("demo/tiny-llama")),
        (json!(["Phase", 0]), &json!("Running")),
        (json!(["Progress", 0]), &json!("42%")),
        (json!(["ETA", 0]), &json!("12min")),
        (json!(["Reason", 0]), &json!("Training")),
        (json!(["Attempt", 1]), &json!(0)),
        (json!(["Registered", 1]), &json!("models:/a.b.c/1")),
    ];
    assert_eq!(shown[..8], expected);
    assert_eq!((shown.len(), &shown[8].0), (9, &json!(["Age", 0])));
    assert!(cells[8].as_str().is_some_and(|age| age.ends_with('s')), "{}", cells[8]);
}

#[tokio::test]
async fn runs_are_selected_by_model_and_phase_and_models_by_their_input_name() {
    let cluster = cluster().await;
    let client = cluster.client().await;
    let path = runs(&cluster.namespace("select").await);
    for (name, model, phase) in [("a", "one", "Running"), ("b", "one", "Failed"), ("c", "two", "Running")] {
        send(&client, Method::POST, &path, &run(name, &merged(&samples::smallest_run(), &json!({"model": model})))).await.expect("it is valid");
        send(&client, Method::PATCH, &format!("{path}/{name}/status"), &json!({"status": {"phase": phase}})).await.expect("it is valid");
    }
    let selected = async |path: &str, selector: &str| {
        let list = get(&client, &format!("{path}?fieldSelector={selector}"), "application/json").await;
        list["items"]
            .as_array()
            .expect("items")
            .iter()
            .map(|item| item["metadata"]["name"].as_str().unwrap_or_default().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(selected(&path, "spec.model=one").await, ["a", "b"]);
    assert_eq!(selected(&path, "status.phase=Running").await, ["a", "c"]);
    assert_eq!(selected(&path, "spec.model=one,status.phase=Running").await, ["a"]);
    let models = format!("{GROUP}/finetunemodels");
    let model = json!({"apiVersion": "finetune.dev/v1alpha1", "kind": "FinetuneModel", "metadata": {"name": "selected"}, "spec": samples::model()});
    send(&client, Method::POST, &models, &merged(&model, &json!({"spec": {"name": "demo/selected"}}))).await.expect("it is valid");
    assert_eq!(selected(&models, "spec.name=demo/selected").await, ["selected"]);
}
