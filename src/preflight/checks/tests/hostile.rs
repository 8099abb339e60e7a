//! Every check before every kind of bad server: what will pass is asked again and is nobody's fault, what will not ends in time.

use std::time::Duration;

use axum::body::{Body, Bytes};
use futures::stream;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use crate::preflight::address::Policy;
use crate::preflight::fake::{Seen, Server, answer, context_of, databricks, failures, oci, plan, redirect};

type Change = fn(&mut Value, &str);

/// Each check, and the plan that makes it ask the server at an address.
const CHECKS: [(&str, Change); 21] = [
    ("SaveFolder", |plan, at| to_store(plan, at, "saveFolder", "s3://out/x")),
    ("Claim", |plan, at| {
        plan["checkCredentials"] = json!(false);
        to_store(plan, at, "saveFolder", "s3://out/x");
    }),
    ("Model", |plan, at| {
        plan["model"]["weights"] = json!("s3://models/tiny");
        plan["s3"] = json!({"endpointUrl": at});
    }),
    ("Model", |plan, _| plan["model"]["weights"] = json!("hf://entity/model")),
    ("TrainData", |plan, at| to_store(plan, at, "train", "s3://data/train.jsonl")),
    ("TrainData", |plan, at| {
        plan["taskType"] = json!("CONTINUED_PRETRAIN");
        to_store(plan, at, "train", "s3://data/text");
    }),
    ("TrainData", |plan, _| plan["train"] = json!("entity/data/train")),
    ("EvalData", |plan, at| to_store(plan, at, "eval", "s3://data/eval.jsonl")),
    ("CustomWeights", |plan, at| to_store(plan, at, "customWeights", "s3://out/checkpoints/ep1")),
    ("CustomWeights", |plan, at| to_store(plan, at, "customWeights", "s3://out/checkpoints/ep1.pt")),
    ("Mlflow", |plan, at| plan["mlflow"] = json!({"trackingUri": at, "experimentPath": "/x"})),
    ("Registry", |plan, at| plan["mlflow"] = json!({"trackingUri": at, "experimentPath": "/x", "registry": "main.models.x"})),
    ("Mlflow", |plan, _| plan["mlflow"] = json!({"experimentPath": "/x"})),
    ("Registry", |plan, _| plan["mlflow"] = json!({"experimentPath": "/x", "registry": "main.models.x"})),
    ("Registry", |plan, _| plan["mlflow"] = json!({"experimentPath": "/x", "registry": "main.models"})),
    ("TrainData", |plan, _| plan["train"] = json!("dbfs:/Volumes/a/b/c/train.jsonl")),
    ("TrainData", |plan, _| plan["train"] = json!("main.raw.rows")),
    ("Cluster", |plan, _| plan["cluster"] = json!("c-1")),
    ("CustomWeights", |plan, _| plan["customWeights"] = json!("dbfs:/databricks/mlflow-tracking/1/ab/artifacts/ep1")),
    ("SaveFolder", |plan, _| plan["saveFolder"] = json!("oci://data/x")),
    ("Wandb", |plan, _| plan["wandb"] = json!({"project": "p", "entity": "e"})),
];

fn to_store(plan: &mut Value, address: &str, field: &str, place: &str) {
    plan[field] = json!(place);
    plan["s3"] = json!({"endpointUrl": address});
}

/// Class and reason of every check before the server at `address`.
async fn judged(address: &str) -> Vec<(String, String, String)> {
    // All clients before the first question: making one takes longer than an answer may.
    let cases: Vec<_> = CHECKS
        .iter()
        .map(|(name, change)| {
            let folder = tempfile::tempdir().unwrap();
            let mut plan = plan(folder.path());
            change(&mut plan, address);
            let environment = [("HF_ENDPOINT", address), ("WANDB_BASE_URL", address)];
            let context = context_of(&plan, &environment, Policy::open(), &[(databricks::HOST, address), (oci::HOST, address)]);
            (name, folder, context)
        })
        .collect();
    let each = cases.iter().map(|(name, _, context)| async move {
        let failures = tokio::time::timeout(Duration::from_secs(30), failures(context)).await.unwrap_or_else(|_| panic!("{name} never ends"));
        let failed = failures.into_iter().find(|failure| failure[0] == **name).unwrap_or_else(|| panic!("{name} passes"));
        let [name, class, reason, _] = failed;
        (name, class, reason)
    });
    futures::future::join_all(each).await
}

async fn judged_before(respond: impl Fn(&Seen) -> axum::response::Response + Clone + Send + Sync + 'static) -> Vec<(String, String, String)> {
    let server = Server::answering(respond).await;
    judged(&server.address).await
}

fn assert_all(found: Vec<(String, String, String)>, class: &str, reasons: &[&str]) {
    for (name, found_class, reason) in found {
        assert!(found_class == class && reasons.contains(&reason.as_str()), "{name}: {found_class} {reason}, expected {class} {reasons:?}");
    }
}

#[tokio::test]
async fn a_busy_or_broken_service_is_infrastructure() {
    for status in [429, 500, 503] {
        assert_all(judged_before(move |_| answer(status, "x")).await, "Infrastructure", &["ServiceUnavailable"]);
    }
}

#[tokio::test]
async fn a_service_that_hangs_up_is_infrastructure() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let hang_up = tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    assert_all(judged(&address).await, "Infrastructure", &["Unreachable"]);
    hang_up.abort();
}

#[tokio::test]
async fn a_service_that_says_nothing_is_infrastructure() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    assert_all(judged(&format!("http://{}", listener.local_addr().unwrap())).await, "Infrastructure", &["TimedOut", "Unreachable"]);
}

#[tokio::test]
async fn an_answer_that_drips_is_infrastructure() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let drip = tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                for byte in b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n".iter().chain(&[b'x'; 1000]) {
                    if socket.write_all(&[*byte]).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(400)).await;
                }
            });
        }
    });
    assert_all(judged(&address).await, "Infrastructure", &["TimedOut", "Unreachable"]);
    drip.abort();
}

#[tokio::test]
async fn a_redirect_to_a_denied_address_is_the_users_to_mend_and_is_not_followed() {
    let found = judged_before(|_| redirect(307, "http://169.254.169.254/latest/meta-data")).await;
    assert_all(found, "UserError", &["Redirected", "RegionMismatch"]);
}

#[tokio::test]
async fn an_endless_answer_passes_nowhere_and_ends() {
    let endless = |status| {
        judged_before(move |_| {
            let endless = stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[b' '; 8192])));
            answer(status, Body::from_stream(endless))
        })
    };
    assert_all(endless(200).await, "Infrastructure", &["AnswerTooLarge", "StoreFailed", "TimedOut"]);
    assert_all(endless(500).await, "Infrastructure", &["ServiceUnavailable", "AnswerTooLarge", "TimedOut"]);
}
