//! Datasets of a hub that answers as the public one documents it: `/api/datasets/{name}`, `/api/datasets/{name}/parquet` with its
//! numbered files, `/datasets/{name}/resolve/{revision}/{path}`, redirects with `X-Linked-*`, ranges.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use axum::response::Response;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::data_tests::{GOOD, data_plan};
use super::judge;
use crate::preflight::fake::{CANARY, Seen, Server, answer, context, json_answer, redirect, said};
use crate::preflight::verdict::Verdict;

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/parquet").join(name)).unwrap()
}

/// A file as a store hands it out: whole, or the range that is asked for.
fn file(seen: &Seen, content: &[u8], tag: &str) -> Response {
    let range = seen.headers.get("range").and_then(|range| range.to_str().ok()?.strip_prefix("bytes=")?.split_once('-'));
    let mut response = if let Some((first, last)) = range {
        let first: usize = first.parse().unwrap();
        let last = last.parse().map_or(content.len(), |last: usize| last + 1);
        let mut response = answer(206, content[first..last].to_vec());
        let part = format!("bytes {first}-{}/{}", last - 1, content.len());
        response.headers_mut().insert("content-range", part.parse().unwrap());
        response
    } else {
        answer(200, content.to_vec())
    };
    response.headers_mut().insert("etag", tag.parse().unwrap());
    response
}

struct Hub {
    hub: Server,
    cdn: Server,
}

impl Hub {
    /// A hub that knows this of `entity/data`, with these files, all of which lie on another host.
    async fn new(about: Value, converted: Value, files: &[(&str, Vec<u8>)]) -> Self {
        let files: Arc<BTreeMap<String, Vec<u8>>> = Arc::new(files.iter().map(|(path, content)| ((*path).to_owned(), content.clone())).collect());
        let stored = Arc::clone(&files);
        let cdn = Server::answering(move |seen| {
            if seen.method == "HEAD" {
                return answer(403, "");
            }
            let (path, _) = seen.path.split_once('?').unwrap();
            stored.get(path).map_or_else(|| answer(404, ""), |content| file(seen, content, "\"cdn\""))
        })
        .await;
        let other = cdn.address.clone();
        let hub = Server::answering(move |seen| match seen.path.as_str() {
            "/api/datasets/entity/data" => json_answer(200, &about),
            "/api/datasets/entity/data/parquet" => json_answer(if converted.is_null() { 404 } else { 200 }, &converted),
            path => match files.get(path) {
                Some(content) => {
                    let mut response = redirect(302, &format!("{other}{path}?signature=x"));
                    response.headers_mut().insert("x-linked-size", content.len().into());
                    response.headers_mut().insert("x-linked-etag", "\"linked\"".parse().unwrap());
                    response
                }
                None => answer(404, ""),
            },
        })
        .await;
        Self { hub, cdn }
    }

    async fn judge(&self, plan: &Value) -> Verdict {
        judge(&context(plan, &[("HF_ENDPOINT", &self.hub.address)]), Instant::now(), &|_| ()).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_hub_converted_is_read_in_its_order_and_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut plan = data_plan(folder.path(), GOOD);
    plan["train"] = json!("entity/data/train");
    let base = "/api/datasets/entity/data/parquet/default/train";
    let files = [(format!("{base}/0.parquet"), golden("pairs-snappy.parquet")), (format!("{base}/1.parquet"), golden("pairs-plain.parquet"))];
    let files = files.each_ref().map(|(path, content)| (path.as_str(), content.clone()));
    let hub = Hub::new(json!({"sha": "abc"}), json!({"default": {"train": ["u", "v"], "test": ["w"]}}), &files).await;
    let data = hub.judge(&plan).await.data.unwrap();
    let train = data.train.clone().unwrap();
    assert_eq!((train.source.as_str(), train.rows, train.samples, train.duplicates), ("entity/data/train", 100, 100, Some(50)));
    assert!(hub.hub.seen().iter().all(|seen| seen.authorization.as_deref() == Some(&format!("Bearer {CANARY}"))));
    assert!(hub.cdn.seen().iter().all(|seen| seen.authorization.is_none() && seen.headers.contains_key("range")));
    let read = hub.cdn.seen().len();
    let again = hub.judge(&plan).await.data.unwrap();
    assert_eq!((again.cached, again.train, hub.cdn.seen().len()), (true, data.train, read));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_files_of_a_dataset_that_is_not_converted_are_read_at_its_commit() {
    let folder = tempfile::tempdir().unwrap();
    let mut plan = data_plan(folder.path(), GOOD);
    plan["train"] = json!("hf://entity/data/train");
    let about =
        json!({"sha": "abc", "siblings": [{"rfilename": "b/train.jsonl"}, {"rfilename": "b/train-0 é.parquet"}, {"rfilename": "test.jsonl"}]});
    let files = [
        ("/datasets/entity/data/resolve/abc/b/train.jsonl", GOOD.as_bytes().to_vec()),
        ("/datasets/entity/data/resolve/abc/b/train-0%20%C3%A9.parquet", golden("pairs-snappy.parquet")),
    ];
    let hub = Hub::new(about, Value::Null, &files).await;
    let verdict = hub.judge(&plan).await;
    assert_eq!(said(&verdict.checks), Vec::<[String; 4]>::new());
    assert_eq!(verdict.data.unwrap().train.unwrap().rows, 52);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_row_names_file_and_row() {
    let folder = tempfile::tempdir().unwrap();
    let mut plan = data_plan(folder.path(), GOOD);
    plan["train"] = json!("entity/data/train");
    let files = [("/api/datasets/entity/data/parquet/default/train/0.parquet", golden("chat-zstd.parquet"))];
    let hub = Hub::new(json!({}), json!({"default": {"train": ["u"]}}), &files).await;
    let [name, class, reason, message] = &said(&hub.judge(&plan).await.checks)[0];
    assert_eq!([name, class, reason], ["TrainRows", "DataError", "BadRows"]);
    let expected =
        "spec.trainDataPath: 30 of 30 rows of entity/data/train break a rule; mend or remove them: 0.parquet row 1: TaskTypeMismatchError: ";
    assert!(message.starts_with(expected), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_refused_is_not_the_datas_fault() {
    let folder = tempfile::tempdir().unwrap();
    let mut plan = data_plan(folder.path(), GOOD);
    plan["train"] = json!("entity/data/train");
    for (status, expected) in [(403, "CredentialError"), (404, "UserError"), (503, "Infrastructure")] {
        let hub = Server::answering(move |seen| match seen.path.as_str() {
            "/api/datasets/entity/data" => json_answer(200, &json!({})),
            "/api/datasets/entity/data/parquet" => json_answer(200, &json!({"default": {"train": ["u"]}})),
            _ => answer(status, ""),
        })
        .await;
        let verdict = judge(&context(&plan, &[("HF_ENDPOINT", &hub.address)]), Instant::now(), &|_| ()).await;
        let [name, class, _, message] = &said(&verdict.checks)[0];
        assert_eq!([name, class], ["TrainRows", expected], "{message}");
        assert!(message.contains("entity/data/train"), "{message}");
    }
}
