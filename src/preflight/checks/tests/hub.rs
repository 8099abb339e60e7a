use axum::response::Response;
use serde_json::{Value, json};

use crate::preflight::checks::Hub;
use crate::preflight::fake::{CANARY, Seen, Server, answer, context, failed, failures, json_answer, plan, redirect};

async fn outcome(
    change: impl FnOnce(&mut Value),
    respond: impl Fn(&Seen) -> Response + Clone + Send + Sync + 'static,
) -> (Vec<[String; 4]>, Vec<Seen>) {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::answering(respond).await;
    let mut plan = plan(folder.path());
    change(&mut plan);
    let failures = failures(&context(&plan, &[("HF_ENDPOINT", &server.address)])).await;
    (failures, server.seen())
}

fn dataset(plan: &mut Value) {
    plan["train"] = json!("entity/data/train");
}

fn model(plan: &mut Value) {
    plan["model"] = json!({"name": "entity/model", "weights": "hf://entity/model", "revision": "abc"});
}

#[tokio::test]
async fn a_split_that_the_hub_knows_passes() {
    for (dataset_says, parquet_says) in [
        (json!({}), (200, json!({"default": {"train": ["u"], "test": ["u"]}}))),
        (json!({"siblings": [{"rfilename": "README.md"}, {"rfilename": "data/train-00000-of-00001.parquet"}]}), (404, json!({}))),
    ] {
        let (failures, seen) = outcome(dataset, move |seen| match seen.path.as_str() {
            "/api/datasets/entity/data" => json_answer(200, &dataset_says),
            "/api/datasets/entity/data/parquet" => json_answer(parquet_says.0, &parquet_says.1),
            _ => answer(404, ""),
        })
        .await;
        assert_eq!(failures, Vec::<[String; 4]>::new());
        assert_eq!(seen.len(), 2);
        assert!(seen.iter().all(|seen| seen.authorization.as_deref() == Some(&format!("Bearer {CANARY}"))));
    }
}

#[tokio::test]
async fn a_missing_split_and_a_missing_dataset_are_told_apart() {
    let (failures, _) = outcome(dataset, |seen| {
        json_answer(200, &if seen.path.ends_with("parquet") { json!({"default": {"test": [], "valid": []}}) } else { json!({}) })
    })
    .await;
    let message = "spec.trainDataPath: the dataset entity/data has no split train; it has test, valid";
    assert_eq!(failures, [failed("TrainData", "UserError", "SplitMissing", message)]);

    for (status, class) in [(401, "CredentialError"), (403, "CredentialError"), (404, "UserError")] {
        let (failures, _) = outcome(dataset, move |seen| answer(if seen.path == "/api/whoami-v2" { 200 } else { status }, CANARY)).await;
        let message = format!(
            "spec.trainDataPath: cannot read the dataset entity/data on the hub: the hub answered {status} to the token of Secret my-hf; check the name, \
             and that access to the dataset was granted to that token"
        );
        assert_eq!(failures, [failed("TrainData", class, "DatasetNotAccessible", &message)]);
    }

    let (failures, _) = outcome(dataset, |seen| {
        let about = json!({"cardData": {"dataset_info": {"splits": [{"name": "train"}]}}, "siblings": [{"rfilename": "train.csv"}]});
        if seen.path.ends_with("parquet") { answer(404, "") } else { json_answer(200, &about) }
    })
    .await;
    let message = "spec.trainDataPath: the dataset entity/data has no file of the split train that is Parquet or JSON lines, and the hub has not converted it; \
                   upload such a file to the dataset";
    assert_eq!(failures, [failed("TrainData", "UserError", "NoReadableFiles", message)]);

    let (failures, _) = outcome(dataset, |_| json_answer(200, &json!({"one": {"train": []}, "two": {"train": []}}))).await;
    assert_eq!(failures[0][2], "DatasetHasSubsets");
    let (failures, _) = outcome(dataset, |_| answer(503, "")).await;
    assert_eq!([&failures[0][1], &failures[0][2]], ["Infrastructure", "ServiceUnavailable"]);
}

#[tokio::test]
async fn a_model_on_the_hub_needs_configuration_tokenizer_and_weights() {
    let files = ["config.json", "tokenizer.json", "model.safetensors"];
    for missing in [None, Some(0), Some(1), Some(2)] {
        let names: Vec<_> = files.iter().enumerate().filter(|(i, _)| Some(*i) != missing).map(|(_, name)| json!({"rfilename": name})).collect();
        let (failures, seen) = outcome(model, move |_| json_answer(200, &json!({"siblings": names}))).await;
        assert_eq!(seen[0].path, "/api/models/entity/model/revision/abc");
        match missing {
            None => assert_eq!(failures, Vec::<[String; 4]>::new()),
            Some(index) => assert!(failures[0][3].contains(&format!("hf://entity/model has no {}", files[index])), "{failures:?}"),
        }
    }
}

/// A hub with a gated model in two shards; the answer to a file, to who one is, and the files that are there.
async fn gated(file: u16, who: u16, files: &'static [&'static str]) -> Vec<[String; 4]> {
    let (failures, _) = outcome(model, move |seen| match seen.path.as_str() {
        "/api/models/entity/model/revision/abc" => {
            let files: Vec<_> = files.iter().map(|name| json!({"rfilename": name})).collect();
            json_answer(200, &json!({"gated": "manual", "siblings": files}))
        }
        "/api/whoami-v2" => json_answer(who, &json!({"name": "me"})),
        "/entity/model/resolve/abc/config.json" => answer(file, "{}"),
        "/entity/model/resolve/abc/model.safetensors.index.json" => {
            json_answer(200, &json!({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}))
        }
        _ => answer(404, ""),
    })
    .await;
    failures
}

#[tokio::test]
async fn of_a_gated_model_the_files_are_tried_and_all_shards_are_there() {
    const ALL: [&str; 5] = ["config.json", "tokenizer.json", "model.safetensors.index.json", "model-1.safetensors", "model-2.safetensors"];
    assert_eq!(gated(200, 200, &ALL).await, Vec::<[String; 4]>::new());
    let message =
        "spec.model: hf://entity/model: 1 of the shards that its index lists are missing, model-2.safetensors among them; upload the whole model";
    assert_eq!(gated(200, 200, &ALL[..4]).await, [failed("Model", "UserError", "ModelIncomplete", message)]);
    let message = "spec.model: cannot read config.json of the model entity/model on the hub: the hub answered 403 to the token of Secret my-hf; check the \
                   name, and that access to the model was granted to that token";
    assert_eq!(gated(403, 200, &ALL).await, [failed("Model", "CredentialError", "ModelNotAccessible", message)]);
    let message = "spec.model: HF_TOKEN of Secret my-hf is not, or no longer, a token of the hub; put a new one with read access there";
    assert_eq!(gated(401, 401, &ALL).await, [failed("Model", "CredentialError", "TokenInvalid", message)]);
    let (failures, _) = outcome(dataset, |_| answer(401, "")).await;
    assert_eq!(failures[0][..3], ["TrainData", "CredentialError", "TokenInvalid"]);
}

#[tokio::test]
async fn a_file_may_lie_on_another_host_which_never_sees_the_token() {
    let folder = tempfile::tempdir().unwrap();
    let other = Server::answering(|_| answer(200, "tokens")).await;
    let to = format!("{}/signed?x=1", other.address);
    let hub = Server::answering(move |seen| match seen.path.as_str() {
        "/entity/model/resolve/abc/tokenizer.json" => redirect(302, &to),
        _ => answer(404, ""),
    })
    .await;
    let mut plan = plan(folder.path());
    model(&mut plan);
    let context = context(&plan, &[("HF_ENDPOINT", &hub.address)]);
    let client = Hub::new(&context);
    assert_eq!(client.file("entity/model", "tokenizer.json", 100).await.unwrap().unwrap(), "tokens");
    assert_eq!(client.file("entity/model", "other.json", 100).await, Ok(None));
    assert_eq!(client.file("entity/model", "tokenizer.json", 3).await.unwrap_err().reason, "AnswerTooLarge");
    assert_eq!(client.file("entity/../../x", "tokenizer.json", 3).await.unwrap_err().reason, "PlaceInvalid");
    assert!(other.seen().iter().all(|seen| seen.authorization.is_none()));
    assert_eq!(hub.seen()[0].authorization.as_deref(), Some(format!("Bearer {CANARY}").as_str()));
}

#[tokio::test]
async fn a_redirect_that_never_ends_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let hub = Server::answering(|seen| redirect(302, &seen.path)).await;
    let context = context(&plan(folder.path()), &[("HF_ENDPOINT", &hub.address)]);
    assert!(Hub::new(&context).file("entity/model", "x", 3).await.is_err());
    assert_eq!(hub.seen().len(), 5);
}
