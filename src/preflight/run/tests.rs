use std::path::Path;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Options, judge, run};
use crate::preflight::fake::{Server, answer, context, json_answer, plan, said};
use crate::preflight::verdict::Verdict;

fn quiet(_line: &str) {}

fn stored(folder: &Path) -> Option<Value> {
    let report = std::fs::read(folder.join("out/my-run/preflight.json")).ok()?;
    Some(serde_json::from_slice(&report).unwrap())
}

async fn tracker() -> Server {
    Server::answering(|seen| match seen.path.split('?').next().unwrap() {
        "/api/2.0/mlflow/experiments/get-by-name" => json_answer(200, &json!({"experiment": {"experiment_id": "1"}})),
        "/api/2.0/mlflow/runs/search" => json_answer(200, &json!({"runs": [{"info": {"run_id": "r"}}]})),
        _ => answer(404, ""),
    })
    .await
}

#[tokio::test]
async fn a_run_that_is_good_passes_and_is_told_where_to_log() {
    let folder = tempfile::tempdir().unwrap();
    let tracker = tracker().await;
    let mut plan = plan(folder.path());
    plan["mlflow"] = json!({"trackingUri": tracker.address, "experimentPath": "/x"});
    let verdict = judge(&context(&plan, &[]), Instant::now(), &quiet).await;
    assert_eq!(verdict.exit_code(), 0);
    let names: Vec<_> = verdict.checks.iter().map(|check| check.name.as_str()).collect();
    assert_eq!(names, ["Secrets", "SaveFolder", "Claim", "Model", "TrainData", "Mlflow"]);
    let run = verdict.mlflow.clone().unwrap();
    assert_eq!((run.experiment_id.as_str(), run.run_id.as_str()), ("1", "r"));
    assert_eq!(run.url, Some(format!("{}/#/experiments/1/runs/r", tracker.address)));
    assert_eq!(Verdict::parse(&verdict.fit()).unwrap(), verdict);
    assert_eq!(stored(folder.path()).unwrap(), json!({"version": 1, "verdict": verdict, "badRows": null}));
}

#[tokio::test]
async fn after_a_failed_check_no_tracker_run_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let tracker = tracker().await;
    let mut plan = plan(folder.path());
    plan["mlflow"] = json!({"trackingUri": tracker.address, "experimentPath": "/x"});
    plan["eval"] = json!("s3://");
    plan["convertData"] = json!(true);
    let verdict = judge(&context(&plan, &[]), Instant::now(), &quiet).await;
    assert_eq!(said(&verdict.checks)[0][2], "PlaceInvalid");
    assert_eq!((verdict.exit_code(), &verdict.mlflow, &verdict.data), (10, &None, &None));
    assert_eq!(tracker.asked(), ["GET /api/2.0/mlflow/experiments/get-by-name?experiment_name=%2Fx"]);
    assert_eq!(stored(folder.path()).unwrap()["verdict"], json!(verdict));
}

#[tokio::test]
async fn nothing_is_written_into_the_folder_of_another_run() {
    let folder = tempfile::tempdir().unwrap();
    let mut plan = plan(folder.path());
    assert_eq!(judge(&context(&plan, &[]), Instant::now(), &quiet).await.exit_code(), 0);
    let first = stored(folder.path()).unwrap();
    plan["run"]["uid"] = json!("u-2");
    assert_eq!(judge(&context(&plan, &[]), Instant::now(), &quiet).await.exit_code(), 13);
    assert_eq!(stored(folder.path()).unwrap(), first);
}

#[tokio::test]
async fn the_verdict_goes_to_the_termination_log_and_decides_the_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { plan: folder.path().join("plan.json"), termination_log: folder.path().join("log"), allow_local: true };
    let mut plan = plan(folder.path());
    std::fs::write(&options.plan, plan.to_string()).unwrap();
    assert_eq!(run(&options, &quiet).await, 0);
    assert!(Verdict::parse(&std::fs::read_to_string(&options.termination_log).unwrap()).unwrap().passed);

    plan["train"] = json!("s3://");
    std::fs::write(&options.plan, plan.to_string()).unwrap();
    assert_eq!(run(&options, &quiet).await, 10);
    assert!(!Verdict::parse(&std::fs::read_to_string(&options.termination_log).unwrap()).unwrap().passed);

    plan["surprise"] = json!(1);
    std::fs::write(&options.plan, plan.to_string()).unwrap();
    assert_eq!(run(&options, &quiet).await, 11);
    let said = std::fs::read_to_string(&options.termination_log).unwrap();
    assert!(said.starts_with("cannot use the plan ") && said.contains("unknown field `surprise`"), "{said}");
}

#[tokio::test]
async fn each_check_is_one_line_before_the_whole_report() {
    let folder = tempfile::tempdir().unwrap();
    let mut plan = plan(folder.path());
    plan["train"] = json!("s3://");
    let lines = std::sync::Mutex::new(Vec::new());
    let verdict = judge(&context(&plan, &[]), Instant::now(), &|line| lines.lock().unwrap().push(line.to_owned())).await;
    let lines = lines.into_inner().unwrap();
    let expected = [
        "passed  Secrets",
        "passed  SaveFolder",
        "passed  Claim",
        "passed  Model",
        "failed  TrainData  UserError/PlaceInvalid  spec.trainDataPath: s3:// names no bucket: write s3://bucket/path",
    ];
    assert_eq!(lines[..5], expected);
    assert_eq!(lines[5..], [json!({"version": 1, "verdict": verdict, "badRows": null}).to_string()]);
}

#[tokio::test]
async fn in_a_pod_no_folder_of_the_machine_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { plan: folder.path().join("plan.json"), termination_log: folder.path().join("log"), allow_local: false };
    std::fs::write(&options.plan, plan(folder.path()).to_string()).unwrap();
    assert_eq!(run(&options, &quiet).await, 10);
    let verdict = Verdict::parse(&std::fs::read_to_string(&options.termination_log).unwrap()).unwrap();
    let reasons: Vec<_> = said(&verdict.checks).into_iter().map(|[name, _, reason, _]| (name, reason)).collect();
    let expected = ["SaveFolder", "Model", "TrainData"].map(|name| (name.to_owned(), "UnsupportedPlace".to_owned()));
    assert_eq!(reasons, expected);
}
