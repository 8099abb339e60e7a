//! What a person gets wrong, a line each, and the words that the API server answers with.

use std::collections::BTreeSet;

use axum::http::Method;
use finetune_operator::api::crd;
use serde_json::{Value, json};

use crate::request::{GROUP, merged, run, runs, send};
use crate::{cluster, samples};

const DURATION: &str = "must be a whole number and ep (epochs), ba (batches) or tok (tokens), for example 3ep or 1_000_000tok";
const FOLDER: &str = "must be a folder that training can write: s3://bucket/folder, also gs and oci, or dbfs:/Volumes/catalog/schema/volume";
const REGISTRY: &str = "must be catalog.schema or catalog.schema.model";
const SERVER: &str = "must be http://host, https://host (without user name and password) or databricks";
const STORE: &str = "must be http://host or https://host, without user name and password";
const OPPOSITES: &str = "validateInputs and disableCredentialsCheck are opposites and contradict each other here: keep one of them";
const NAME: &str = "metadata.name must be at most 63 lower-case letters, digits and dashes, and start and end with a letter or digit: it becomes a folder and a label";

/// What is merged into the smallest run, the field that is named, and what is said of it after the value.
fn wrong_specs() -> Vec<(Value, &'static str, &'static str)> {
    let folder = "of CONTINUED_PRETRAIN must be a folder with .txt files in an object store, a volume or a PVC, not a dataset or a table";
    let folders = Box::leak(Box::new([format!("trainDataPath {folder}"), format!("evalDataPath {folder}")]));
    vec![
        (json!({"trainingDuration": "10 epochs"}), "spec.trainingDuration", DURATION),
        (json!({"trainingDuration": "0ep"}), "spec.trainingDuration", DURATION),
        (json!({"trainingDuration": "1.5ep"}), "spec.trainingDuration", DURATION),
        (json!({"trainingDuration": ""}), "spec.trainingDuration", DURATION),
        (json!({"checkpointEvery": "hourly"}), "spec.checkpointEvery", DURATION),
        (json!({"saveFolder": "/local/folder"}), "spec.saveFolder", FOLDER),
        (json!({"saveFolder": "s3://"}), "spec.saveFolder", FOLDER),
        (json!({"saveFolder": "https://host/folder"}), "spec.saveFolder", FOLDER),
        (json!({"saveFolder": "az://container/folder"}), "spec.saveFolder", FOLDER),
        (json!({"saveFolder": "dbfs:/Volumes/main/out"}), "spec.saveFolder", FOLDER),
        (json!({"registerTo": "model", "experimentTracker": {"mlflow": {}}}), "spec.registerTo", REGISTRY),
        (json!({"registerTo": "a.b.c.d", "experimentTracker": {"mlflow": {}}}), "spec.registerTo", REGISTRY),
        (json!({"experimentTracker": {"mlflow": {"modelRegistryPath": "model"}}}), "spec.experimentTracker.mlflow.modelRegistryPath", REGISTRY),
        (json!({"experimentTracker": {"mlflow": {"trackingUri": "mlflow:5000"}}}), "spec.experimentTracker.mlflow.trackingUri", SERVER),
        (json!({"experimentTracker": {"mlflow": {"trackingUri": "http://me:secret@host"}}}), "spec.experimentTracker.mlflow.trackingUri", SERVER),
        (json!({"s3": {"endpointUrl": "minio:9000"}}), "spec.s3.endpointUrl", STORE),
        (json!({"s3": {"endpointUrl": "http://me:secret@host"}}), "spec.s3.endpointUrl", STORE),
        (json!({"experimentTracker": {}}), "spec.experimentTracker", "experimentTracker needs mlflow or wandb"),
        (
            json!({"registerTo": "a.b", "experimentTracker": {"mlflow": {"modelRegistryPath": "a.c"}}}),
            "spec.registerTo",
            "registerTo and experimentTracker.mlflow.modelRegistryPath are the same setting and differ here: keep one of them",
        ),
        (
            json!({"registerTo": "a.b"}),
            "spec.registerTo",
            "registerTo needs experimentTracker.mlflow: the model is registered in that server's registry",
        ),
        (
            json!({"registerTo": "a.b", "experimentTracker": {"wandb": {"project": "p", "entity": "e"}}}),
            "spec.registerTo",
            "registerTo needs experimentTracker.mlflow: the model is registered in that server's registry",
        ),
        (json!({"validateInputs": true, "disableCredentialsCheck": true}), "spec.validateInputs", OPPOSITES),
        (json!({"validateInputs": false, "disableCredentialsCheck": false}), "spec.validateInputs", OPPOSITES),
        (json!({"evalPrompts": ["Why?"]}), "spec.evalPrompts", "evalPrompts needs experimentTracker: the generations are logged there"),
        (json!({"taskType": "CONTINUED_PRETRAIN", "trainDataPath": "entity/dataset/train"}), "spec.trainDataPath", &folders[0]),
        (json!({"taskType": "CONTINUED_PRETRAIN", "trainDataPath": "main.data.rows", "dataPrepClusterId": "a"}), "spec.trainDataPath", &folders[0]),
        (json!({"taskType": "CONTINUED_PRETRAIN", "evalDataPath": "entity/dataset/test"}), "spec.evalDataPath", &folders[1]),
        (
            json!({"trainDataPath": "main.data.rows"}),
            "spec.dataPrepClusterId",
            "dataPrepClusterId is needed to read a table: give the id of a cluster",
        ),
        (
            json!({"evalDataPath": "main.data.rows"}),
            "spec.dataPrepClusterId",
            "dataPrepClusterId is needed to read a table: give the id of a cluster",
        ),
        (
            json!({"secrets": [{"name": "a", "kind": "env"}]}),
            "spec.secrets[0]",
            "secrets of kind env and mounted need key: the key of the Secret to use",
        ),
        (
            json!({"secrets": [{"name": "a", "kind": "mounted"}]}),
            "spec.secrets[0]",
            "secrets of kind env and mounted need key: the key of the Secret to use",
        ),
        (json!({"adapter": "lora"}), "spec.adapter", "adapter is reserved: no engine implements adapters yet, leave it out to train all weights"),
    ]
}

fn takes(message: &str, said: &str) -> bool {
    message.starts_with("Invalid value: ") && message.ends_with(&format!(": {said}"))
}

#[tokio::test]
async fn each_mistake_is_answered_with_its_field_and_what_to_do_and_with_nothing_else() {
    let cluster = cluster().await;
    let client = cluster.client().await;
    let path = format!("{}?dryRun=All", runs(&cluster.namespace("refused").await));
    for (patch, field, said) in wrong_specs() {
        let refused =
            send(&client, Method::POST, &path, &run("sample", &merged(&samples::smallest_run(), &patch))).await.expect_err(&patch.to_string());
        assert!(matches!(&refused[..], [(named, message)] if named == field && takes(message, said)), "{patch}: {refused:?}");
    }
}

#[tokio::test]
async fn a_wrong_choice_and_a_missing_field_are_named_with_what_is_possible() {
    let cluster = cluster().await;
    let client = cluster.client().await;
    let path = format!("{}?dryRun=All", runs(&cluster.namespace("refused").await));
    let cases = [
        (
            json!({"taskType": "CHAT"}),
            "spec.taskType",
            r#"Unsupported value: "CHAT": supported values: "INSTRUCTION_FINETUNE", "CHAT_COMPLETION", "CONTINUED_PRETRAIN""#,
        ),
        (
            json!({"scheduling": {"priority": "high"}}),
            "spec.scheduling.priority",
            r#"Unsupported value: "high": supported values: "auto", "low", "lowest""#,
        ),
        (json!({"model": null}), "spec.model", "Required value"),
        (json!({"trainDataPath": null}), "spec.trainDataPath", "Required value"),
        (json!({"saveFolder": null}), "spec.saveFolder", "Required value"),
        (json!({"experimentTracker": {"wandb": {"project": "p"}}}), "spec.experimentTracker.wandb.entity", "Required value"),
    ];
    for (patch, field, said) in cases {
        let refused =
            send(&client, Method::POST, &path, &run("sample", &merged(&samples::smallest_run(), &patch))).await.expect_err(&patch.to_string());
        // Where a choice is wrong the API server adds that it did not look at the rules.
        assert_eq!(refused.first(), Some(&(field.to_owned(), said.to_owned())), "{patch}: {refused:?}");
        assert!(
            refused[1..].iter().all(|(field, message)| field == "<nil>" && message.contains("some validation rules were not checked")),
            "{refused:?}"
        );
    }
}

#[tokio::test]
async fn an_unknown_field_is_named() {
    let cluster = cluster().await;
    let path = format!("{}?dryRun=All", runs(&cluster.namespace("refused").await));
    let object = run("sample", &merged(&samples::smallest_run(), &json!({"trainDataPth": "x", "scheduling": {"queu": "a"}})));
    let refused = send(&cluster.client().await, Method::POST, &path, &object).await;
    let message = r#"FinetuneRun in version "v1alpha1" cannot be handled as a FinetuneRun: strict decoding error: unknown field "spec.scheduling.queu", unknown field "spec.trainDataPth""#;
    assert_eq!(refused, Err(vec![(String::new(), message.to_owned())]));
}

#[tokio::test]
async fn a_name_that_cannot_be_a_folder_and_a_label_is_refused() {
    let cluster = cluster().await;
    let client = cluster.client().await;
    let path = format!("{}?dryRun=All", runs(&cluster.namespace("refused").await));
    for name in ["a.b", &"a".repeat(64)] {
        let refused = send(&client, Method::POST, &path, &run(name, &samples::smallest_run())).await.expect_err(name);
        assert!(matches!(&refused[..], [(_, message)] if takes(message, NAME)), "{name}: {refused:?}");
    }
    assert!(send(&client, Method::POST, &path, &run(&"a".repeat(63), &samples::smallest_run())).await.is_ok());
}

#[tokio::test]
async fn a_models_default_context_must_not_exceed_its_maximum() {
    let client = cluster().await.client().await;
    let object = json!({"apiVersion": "finetune.dev/v1alpha1", "kind": "FinetuneModel", "metadata": {"name": "sample"}, "spec": samples::model()});
    let object = merged(&object, &json!({"spec": {"defaultContextLength": 513}}));
    let refused = send(&client, Method::POST, &format!("{GROUP}/finetunemodels?dryRun=All"), &object).await.expect_err("it exceeds");
    assert!(matches!(&refused[..], [(field, message)] if field == "spec" && takes(message, MODEL_CONTEXT)), "{refused:?}");
}

const MODEL_CONTEXT: &str = "defaultContextLength must not exceed maxContextLength";

#[test]
fn every_rule_of_the_crds_has_its_line_here() {
    let mut messages = BTreeSet::new();
    for (_, definition) in crd::all() {
        collect(&serde_json::to_value(definition).expect("a CRD is JSON"), &mut messages);
    }
    messages.retain(|message| !message.ends_with("cannot change once the run is accepted: make a new run"));
    let tested: BTreeSet<_> =
        wrong_specs().into_iter().map(|(_, _, said)| said.to_owned()).chain([NAME.to_owned(), MODEL_CONTEXT.to_owned()]).collect();
    assert_eq!(messages, tested);
}

/// The messages of all rules below `value`.
fn collect(value: &Value, messages: &mut BTreeSet<String>) {
    for rule in value["x-kubernetes-validations"].as_array().into_iter().flatten() {
        messages.insert(rule["message"].as_str().unwrap_or("a rule without a message").to_owned());
    }
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect(item, messages)),
        Value::Object(fields) => fields.values().for_each(|field| collect(field, messages)),
        _ => {}
    }
}

#[tokio::test]
async fn what_the_services_take_is_taken() {
    let cluster = cluster().await;
    let client = cluster.client().await;
    let path = format!("{}?dryRun=All", runs(&cluster.namespace("taken").await));
    let good = [
        json!({}),
        json!({"trainingDuration": "1_000_000tok"}),
        json!({"trainDataPath": "entity/dataset/train"}),
        json!({"trainDataPath": "dbfs:/Volumes/main/data/train.jsonl", "saveFolder": "dbfs:/Volumes/main/team/out"}),
        json!({"trainDataPath": "https://host/train.jsonl"}),
        json!({"trainDataPath": "pvc://claim/train.jsonl"}),
        json!({"trainDataPath": "main.data.rows", "dataPrepClusterId": "0101-abcdef"}),
        json!({"taskType": "CONTINUED_PRETRAIN", "trainDataPath": "gs://bucket/texts/"}),
        json!({"taskType": "CONTINUED_PRETRAIN", "trainDataPath": "pvc://claim/texts", "evalDataPath": "/Volumes/main/data/texts"}),
        json!({"saveFolder": "s3://bucket"}),
        json!({"validateInputs": false, "disableCredentialsCheck": true}),
        json!({"validateInputs": true, "disableCredentialsCheck": false}),
        json!({"registerTo": "main.models", "experimentTracker": {"mlflow": {"modelRegistryPath": "main.models"}}}),
        json!({"registerTo": "main.models.mine", "experimentTracker": {"mlflow": {"trackingUri": "http://mlflow.team-a.svc:5000"}}}),
        json!({"experimentTracker": {"mlflow": {"trackingUri": "databricks"}, "wandb": {"project": "p", "entity": "e"}}, "evalPrompts": ["Why?"]}),
        json!({"secrets": [{"name": "s3-credentials", "kind": "s3", "profile": "west"}, {"name": "token", "kind": "env", "key": "MY_TOKEN"}]}),
        json!({"compute": {"gpusPerNode": 0}, "scheduling": {"queue": "team-a", "maxDurationHours": 0.5}, "suspend": true}),
        json!({"contextLength": null, "experimentTracker": null}),
    ];
    for patch in good {
        let spec = patch.as_object().expect("a patch").iter().fold(samples::smallest_run(), |mut spec, (key, value)| {
            spec[key] = value.clone();
            spec
        });
        let answered = send(&client, Method::POST, &path, &run("sample", &spec)).await;
        assert!(answered.is_ok(), "{patch}: {answered:?}");
    }
}

#[tokio::test]
async fn the_readmes_run_is_taken() {
    let cluster = cluster().await;
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("the README is there");
    let yaml = readme.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("the README shows a run");
    let mut run: Value = serde_saphyr::from_str(yaml).expect("it is YAML");
    let namespace = cluster.namespace("readme").await;
    run["metadata"]["namespace"] = json!(namespace);
    send(&cluster.client().await, Method::POST, &format!("{}?dryRun=All", runs(&namespace)), &run).await.expect("it is valid");
}
