//! The checks of places against a server that is not ours.

mod s3;
mod server;
#[path = "../testbed/mod.rs"]
mod testbed;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use finetune_operator::preflight::address::Policy;
use finetune_operator::preflight::checks::{Context, prove};
use finetune_operator::preflight::dial::Dialer;
use finetune_operator::preflight::plan::Plan;
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use serde_json::{Value, json};
use tokio::time::Instant;

/// A plan whose data and save folder are at `root`, with one Secret of `kind` that holds `keys`.
fn plan(folder: &Path, root: &str, kind: &str, keys: &[(&str, &str)]) -> Value {
    for (name, content) in [("model/config.json", "{}"), ("model/tokenizer.json", "{}"), ("model/model.safetensors", "x")] {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().expect("it has a folder")).expect("the folder is ours");
        std::fs::write(path, content).expect("the folder is ours");
    }
    let secret = folder.join("secret");
    let _ = std::fs::remove_dir_all(&secret);
    std::fs::create_dir_all(&secret).expect("the folder is ours");
    for (key, value) in keys {
        std::fs::write(secret.join(key), value).expect("the folder is ours");
    }
    json!({"version": 1, "run": {"namespace": "team-a", "name": "my-run", "uid": "u-1"}, "specHash": "h",
        "checkCredentials": true, "convertData": false, "taskType": "INSTRUCTION_FINETUNE",
        "train": format!("{root}/data/train.jsonl"), "saveFolder": format!("{root}/out"), "contextLength": 256,
        "model": {"name": "demo/tiny", "weights": folder.join("model")}, "packing": true, "globalBatchSize": 8, "worldSize": 1,
        "secrets": [{"name": "my-secret", "kind": kind, "path": secret}], "deadlines": {"credentialsSeconds": 60, "dataSeconds": 60}})
}

fn context(plan: &Value) -> Context {
    let plan = Plan::parse(plan.to_string().as_bytes()).expect("it is a plan");
    Context::new(plan, Dialer::hurried(Policy::open()).expect("there is a client"), BTreeMap::new())
}

/// Check and reason of every failure, and all messages together.
async fn reasons(context: &Context) -> (Vec<(String, String)>, String) {
    let checks = prove(context, Instant::now() + Duration::from_secs(60)).await;
    let failed: Vec<_> = checks.iter().filter(|check| !check.passed).collect();
    let word = |text: &Option<String>| text.clone().unwrap_or_default();
    let reasons = failed.iter().map(|check| (check.name.as_str().to_owned(), word(&check.reason))).collect();
    (reasons, failed.iter().map(|check| word(&check.message)).collect::<Vec<_>>().join("\n"))
}

fn expect(reasons: &[(&str, &str)]) -> Vec<(String, String)> {
    reasons.iter().map(|(check, reason)| ((*check).to_owned(), (*reason).to_owned())).collect()
}

/// What every store must do, from reading to a claim that holds; `root` is empty but for `data/train.jsonl`.
async fn exercise(context: &Context, root: &str) {
    let data = context.stores.open(&format!("{root}/data")).expect("it opens");
    let found: Vec<_> = data.store.list(Some(&data.path)).try_collect().await.expect("it is listed");
    assert_eq!(found.iter().map(|meta| meta.location.filename().unwrap_or_default()).collect::<Vec<_>>(), ["train.jsonl"]);
    let file = data.below("train.jsonl");
    assert_eq!(file.store.get_range(&file.path, 2..5).await.expect("a part is read"), "pro");

    let (failed, said) = reasons(context).await;
    assert_eq!(failed, [], "{said}");
    let (failed, said) = reasons(context).await;
    assert_eq!(failed, [], "the same run again: {said}");
    let out = context.stores.open(&format!("{root}/out")).expect("it opens");
    let left: Vec<_> = out.store.list(Some(&out.path)).try_collect().await.expect("it is listed");
    assert_eq!(left.iter().map(|meta| meta.location.filename().unwrap_or_default()).collect::<Vec<_>>(), ["owner.json"], "no probe is left");
    let mut other = context.clone();
    other.plan.run.uid = "u-2".into();
    assert_eq!(reasons(&other).await.0, expect(&[("Claim", "SaveFolderInUse")]));

    let mut text = context.clone();
    text.plan.train = format!("{root}/data");
    text.plan.task_type = finetune_operator::api::TaskType::ContinuedPretrain;
    assert_eq!(reasons(&text).await.0, expect(&[("TrainData", "NoTextFiles")]));
    let mut missing = context.clone();
    missing.plan.train = format!("{root}/data/none.jsonl");
    assert_eq!(reasons(&missing).await.0, expect(&[("TrainData", "ObjectMissing")]));
}
