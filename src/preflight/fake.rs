//! Servers on this machine that answer as the tests say, and a plan that names them. For tests only.

pub(super) mod databricks;
pub(super) mod oci;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::Response;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::address::Policy;
use super::checks::{self, Context};
use super::dial::Dialer;
use super::plan::Plan;
use super::verdict::Check;

/// What every credential of the tests holds; it must never be seen outside of a request.
pub(super) const CANARY: &str = "hf_canary-of-a-secret";

/// One request, as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) authorization: Option<String>,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

/// A server that runs as long as its value lives.
pub(super) struct Server {
    pub(super) address: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Answers every request by `answer`.
    pub(super) async fn answering(answer: impl Fn(&Seen) -> Response + Clone + Send + Sync + 'static) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&seen);
        let handler = move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| {
            let authorization = headers.get("authorization").and_then(|value| value.to_str().ok()).map(str::to_owned);
            let request = Seen { method: method.to_string(), path: uri.to_string(), authorization, headers, body: body.to_vec() };
            let response = answer(&request);
            all.lock().unwrap().push(request);
            async move { response }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let task = tokio::spawn(async move { axum::serve(listener, Router::new().fallback(handler)).await.unwrap() });
        Self { address, seen, task }
    }

    /// The requests so far.
    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Methods and paths of the requests so far.
    pub(super) fn asked(&self) -> Vec<String> {
        self.seen().into_iter().map(|seen| format!("{} {}", seen.method, seen.path)).collect()
    }
}

pub(super) fn answer(status: u16, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

/// The bytes of an object, or the part of them that is asked for.
pub(super) fn content(seen: &Seen, bytes: &[u8]) -> Response {
    let last = bytes.len().saturating_sub(1);
    let range = seen.headers.get("range").map(|range| {
        let (first, end) = range.to_str().unwrap().strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        let first: usize = first.parse().unwrap();
        (first, end.parse().unwrap_or(last).min(last))
    });
    let mut response = match range {
        Some((first, end)) => answer(206, bytes[first..=end].to_vec()),
        None => answer(200, if seen.method == "HEAD" { Vec::new() } else { bytes.to_vec() }),
    };
    let headers = response.headers_mut();
    if let Some((first, end)) = range {
        headers.insert("content-range", format!("bytes {first}-{end}/{}", bytes.len()).parse().unwrap());
    } else {
        headers.insert("content-length", bytes.len().into());
    }
    headers.insert("last-modified", "Thu, 01 Jan 2026 00:00:00 GMT".parse().unwrap());
    response
}

pub(super) fn json_answer(status: u16, body: &Value) -> Response {
    answer(status, body.to_string())
}

pub(super) fn redirect(status: u16, to: &str) -> Response {
    let mut response = answer(status, "");
    response.headers_mut().insert("location", to.parse().unwrap());
    response
}

/// A run whose files are all good and lie below `folder`.
pub(super) fn plan(folder: &Path) -> Value {
    let at = |name: &str| format!("{}/{name}", folder.display());
    for (name, content) in [
        ("model/config.json", "{}"),
        ("model/tokenizer.json", "{}"),
        ("model/model.safetensors", "x"),
        ("train.jsonl", "{\"prompt\":\"a\",\"response\":\"b\"}\n"),
        ("s3/AWS_ACCESS_KEY_ID", "the-key-id"),
        ("s3/AWS_SECRET_ACCESS_KEY", CANARY),
        ("hf/HF_TOKEN", CANARY),
        ("mlflow/MLFLOW_TRACKING_TOKEN", CANARY),
        ("wandb/WANDB_API_KEY", CANARY),
        ("databricks/DATABRICKS_HOST", databricks::HOST),
        ("databricks/DATABRICKS_TOKEN", CANARY),
        ("oci/config", oci::CONFIG),
        ("oci/key_file", oci::KEY),
        ("out/.keep", ""),
    ] {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    let secrets: Vec<_> = ["s3", "hf", "mlflow", "wandb", "databricks", "oci"]
        .iter()
        .map(|kind| json!({"name": format!("my-{kind}"), "kind": kind, "path": at(kind)}))
        .collect();
    json!({"version": 1, "run": {"namespace": "team-a", "name": "my-run", "uid": "u-1"}, "specHash": "h",
        "checkCredentials": true, "convertData": false, "taskType": "INSTRUCTION_FINETUNE",
        "train": at("train.jsonl"), "saveFolder": at("out"), "contextLength": 256,
        "model": {"name": "demo/tiny", "weights": at("model")}, "packing": true, "globalBatchSize": 8, "worldSize": 1,
        "secrets": secrets, "deadlines": {"credentialsSeconds": 60, "dataSeconds": 60}})
}

/// The context of a plan, free to dial this machine and quick to ask again.
pub(super) fn context(plan: &Value, environment: &[(&str, &str)]) -> Context {
    context_of(plan, environment, Policy::open(), &[])
}

/// The same under a policy, with servers that stand in for hosts.
pub(super) fn context_of(plan: &Value, environment: &[(&str, &str)], policy: Policy, stand_ins: &[(&str, &str)]) -> Context {
    let plan = Plan::parse(plan.to_string().as_bytes()).unwrap();
    let environment: BTreeMap<_, _> = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let dialer = Dialer::hurried(policy).unwrap();
    let dialer = stand_ins.iter().fold(dialer, |dialer, (host, server)| dialer.standing_in(host, server));
    Context::new(plan, dialer, environment)
}

/// The failed checks of a plan: name, class, reason, message. A canary in any of it fails the test.
pub(super) async fn failures(context: &Context) -> Vec<[String; 4]> {
    let checks = checks::prove(context, Instant::now() + Duration::from_secs(60)).await;
    said(&checks)
}

pub(super) fn said(checks: &[Check]) -> Vec<[String; 4]> {
    let all = serde_json::to_string(checks).unwrap();
    assert!(!all.contains(CANARY) && !all.contains("the-key-id"), "{all}");
    let failed = checks.iter().filter(|check| !check.passed);
    failed
        .map(|check| {
            let word = |text: &Option<String>| text.clone().unwrap_or_default();
            [check.name.as_str().to_owned(), format!("{:?}", check.class.unwrap()), word(&check.reason), word(&check.message)]
        })
        .collect()
}

/// A failed check as `failures` returns it.
pub(super) fn failed(name: &str, class: &str, reason: &str, message: &str) -> [String; 4] {
    [name, class, reason, message].map(str::to_owned)
}
