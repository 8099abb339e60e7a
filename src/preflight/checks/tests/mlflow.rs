use std::sync::{Arc, Mutex};

use axum::response::Response;
use serde_json::{Value, json};

use crate::preflight::checks::make_run;
use crate::preflight::fake::{CANARY, Seen, Server, answer, context, failed, failures, json_answer, plan};
use crate::preflight::verdict::MlflowRun;

/// The part of MLflow's REST API 2.0 that preflight speaks, with its answers.
#[derive(Default)]
struct Tracker {
    experiments: Vec<String>,
    runs: Vec<Value>,
}

impl Tracker {
    fn answer(&mut self, seen: &Seen) -> Response {
        let body: Value = serde_json::from_slice(&seen.body).unwrap_or_default();
        let missing = json!({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": CANARY});
        match seen.path.split('?').next().unwrap() {
            "/api/2.0/mlflow/experiments/get-by-name" => match self.experiments.first() {
                Some(name) => json_answer(200, &json!({"experiment": {"experiment_id": "7", "name": name, "lifecycle_stage": "active"}})),
                None => json_answer(404, &missing),
            },
            "/api/2.0/mlflow/experiments/create" => {
                self.experiments.push(body["name"].as_str().unwrap().to_owned());
                json_answer(200, &json!({"experiment_id": "7"}))
            }
            "/api/2.0/mlflow/runs/search" => json_answer(200, &if self.runs.is_empty() { json!({}) } else { json!({"runs": self.runs}) }),
            "/api/2.0/mlflow/runs/create" => {
                let run = json!({"info": {"run_id": "abc", "run_name": body["run_name"]}, "data": {"tags": body["tags"]}});
                self.runs.push(run.clone());
                json_answer(200, &json!({"run": run}))
            }
            "/api/2.0/mlflow/registered-models/get" => json_answer(404, &missing),
            _ => answer(404, ""),
        }
    }
}

fn tracked(folder: &std::path::Path, address: &str) -> Value {
    let mut plan = plan(folder);
    plan["mlflow"] = json!({"trackingUri": format!("{address}/"), "experimentPath": "/finetune/x y", "registry": "main.models.x"});
    plan
}

#[tokio::test]
async fn experiment_and_run_are_made_once_and_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let tracker = Arc::new(Mutex::new(Tracker::default()));
    let state = Arc::clone(&tracker);
    let server = Server::answering(move |seen| state.lock().unwrap().answer(seen)).await;
    let context = context(&tracked(folder.path(), &server.address), &[]);
    assert_eq!(failures(&context).await, Vec::<[String; 4]>::new());
    let target = context.plan.mlflow.as_ref().unwrap();
    let url = format!("{}/#/experiments/7/runs/abc", server.address);
    let expected = MlflowRun { experiment_id: "7".into(), run_id: "abc".into(), url: Some(url) };
    assert_eq!(make_run(&context, target).await, Ok(expected.clone()));
    assert_eq!(make_run(&context, target).await, Ok(expected));
    let mut asked = server.asked();
    asked[..3].sort();
    let get = "GET /api/2.0/mlflow/experiments/get-by-name?experiment_name=%2Ffinetune%2Fx+y";
    let expected = [
        get,
        "GET /api/2.0/mlflow/registered-models/get?name=main.models.x",
        "POST /api/2.0/mlflow/experiments/create",
        get,
        "POST /api/2.0/mlflow/runs/search",
        "POST /api/2.0/mlflow/runs/create",
        get,
        "POST /api/2.0/mlflow/runs/search",
    ];
    assert_eq!(asked, expected);
    assert!(server.seen().iter().all(|seen| seen.authorization.as_deref() == Some(&format!("Bearer {CANARY}"))));
    let tracker = tracker.lock().unwrap();
    assert_eq!(tracker.experiments, ["/finetune/x y"]);
    let tags = json!([{"key": "finetune.run-uid", "value": "u-1"}, {"key": "mlflow.runName", "value": "my-run"}]);
    assert_eq!(tracker.runs, [json!({"info": {"run_id": "abc", "run_name": "my-run"}, "data": {"tags": tags}})]);
    let search: Value = serde_json::from_slice(&server.seen()[4].body).unwrap();
    assert_eq!(search["filter"], "tags.`finetune.run-uid` = 'u-1'");
}

#[tokio::test]
async fn an_answer_that_is_no_success_becomes_a_sentence_without_its_body() {
    let doing = |server: &Server| format!("cannot get or make the experiment /finetune/x y at {}", server.address);
    for (status, body, class, reason, rest) in [
        (
            401,
            json!({"error_code": CANARY}),
            "CredentialError",
            "Unauthenticated",
            "the server answered 401 to the credential of Secret my-mlflow; check it",
        ),
        (
            403,
            json!({"error_code": "PERMISSION_DENIED", "message": CANARY}),
            "CredentialError",
            "AccessDenied",
            "the server answered 403 PERMISSION_DENIED to the credential of Secret my-mlflow; give it access",
        ),
        (429, json!({}), "Infrastructure", "ServiceUnavailable", "the server answered 429 each time it was asked"),
        (503, json!({}), "Infrastructure", "ServiceUnavailable", "the server answered 503 each time it was asked"),
        (200, json!([1]), "UserError", "NotMlflow", "the answer is not that of an MLflow server; check trackingUri"),
        (400, json!({"error_code": "INVALID_PARAMETER_VALUE"}), "UserError", "RequestRefused", "the server answered 400 INVALID_PARAMETER_VALUE"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::answering(move |_| json_answer(status, &body)).await;
        let mut plan = tracked(folder.path(), &server.address);
        plan["mlflow"]["registry"] = Value::Null;
        let message = format!("spec.experimentTracker.mlflow: {}: {rest}", doing(&server));
        assert_eq!(failures(&context(&plan, &[])).await, [failed("Mlflow", class, reason, &message)]);
        assert_eq!(server.seen().len(), if class == "Infrastructure" { 4 } else { 1 });
    }
}

#[tokio::test]
async fn a_deleted_experiment_is_said_to_be_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::answering(|_| json_answer(200, &json!({"experiment": {"experiment_id": "7", "lifecycle_stage": "deleted"}}))).await;
    let mut plan = tracked(folder.path(), &server.address);
    plan["mlflow"]["registry"] = Value::Null;
    assert_eq!(failures(&context(&plan, &[])).await[0][2], "ExperimentDeleted");
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn an_id_that_would_leave_its_address_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::answering(|_| json_answer(200, &json!({"experiment": {"experiment_id": "7/../x", "lifecycle_stage": "active"}}))).await;
    let context = context(&tracked(folder.path(), &server.address), &[]);
    assert_eq!(make_run(&context, context.plan.mlflow.as_ref().unwrap()).await.unwrap_err().reason, "NotMlflow");
}
