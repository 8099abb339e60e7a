use serde_json::{Value, json};

use crate::preflight::fake::{Server, answer, context, failed, failures, json_answer, plan};

async fn wandb(respond: Value, status: u16) -> Vec<[String; 4]> {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::answering(move |_| json_answer(status, &respond)).await;
    let mut plan = plan(folder.path());
    plan["wandb"] = json!({"project": "p", "entity": "team"});
    let failures = failures(&context(&plan, &[("WANDB_BASE_URL", &server.address)])).await;
    assert_eq!(server.asked(), ["POST /graphql"]);
    failures.into_iter().map(|[name, class, reason, message]| [name, class, reason, message.replace(&server.address, "SERVER")]).collect()
}

#[tokio::test]
async fn a_key_of_a_member_passes_and_of_others_does_not() {
    let viewer = |username: &str, team: &str| json!({"data": {"viewer": {"username": username, "entity": "x", "teams": {"edges": [{"node": {"name": team}}]}}}});
    assert_eq!(wandb(viewer("me", "team"), 200).await, Vec::<[String; 4]>::new());
    assert_eq!(wandb(viewer("team", "other"), 200).await, Vec::<[String; 4]>::new());
    let message = "spec.experimentTracker.wandb: the key of Secret my-wandb may not log for the entity team: join that team or set another entity";
    assert_eq!(wandb(viewer("me", "other"), 200).await, [failed("Wandb", "CredentialError", "EntityNotAccessible", message)]);
    let message = "spec.experimentTracker.wandb: cannot log in at SERVER: WANDB_API_KEY in Secret my-wandb belongs to nobody; put a valid key there";
    assert_eq!(wandb(json!({"data": {"viewer": null}}), 200).await, [failed("Wandb", "CredentialError", "Unauthenticated", message)]);
    let message = "spec.experimentTracker.wandb: cannot log in at SERVER: the server answered 401 to the key of Secret my-wandb; check it";
    assert_eq!(wandb(json!({}), 401).await, [failed("Wandb", "CredentialError", "Unauthenticated", message)]);
}

#[tokio::test]
async fn a_registry_answers_for_a_name_that_is_one() {
    for (name, status, body, reason) in [
        ("main.models.x", 200, json!({"registered_model": {}}), None),
        ("main.models.x", 404, json!({"error_code": "RESOURCE_DOES_NOT_EXIST"}), None),
        ("main.models.x", 404, json!({}), Some("RequestRefused")),
        ("main.models.x", 403, json!({}), Some("AccessDenied")),
        ("main", 200, json!({}), Some("RegistryNameInvalid")),
        ("main..x", 200, json!({}), Some("RegistryNameInvalid")),
        ("main.a/b", 200, json!({}), Some("RegistryNameInvalid")),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::answering(move |seen| match seen.path.split('?').next() {
            Some("/api/2.0/mlflow/registered-models/get") => json_answer(status, &body),
            Some("/api/2.0/mlflow/experiments/get-by-name") => json_answer(200, &json!({"experiment": {"experiment_id": "1"}})),
            _ => answer(404, ""),
        })
        .await;
        let mut plan = plan(folder.path());
        plan["mlflow"] = json!({"trackingUri": server.address, "experimentPath": "/x", "registry": name});
        let failures = failures(&context(&plan, &[])).await;
        let found: Vec<_> = failures.iter().map(|failure| (failure[0].as_str(), failure[2].as_str())).collect();
        assert_eq!(found, reason.map(|reason| ("Registry", reason)).into_iter().collect::<Vec<_>>(), "{name} {status}");
    }
}

#[tokio::test]
async fn a_project_that_the_client_would_refuse_is_refused_before() {
    let folder = tempfile::tempdir().unwrap();
    for project in ["a/b", "a:b", "50%", &"x".repeat(129)] {
        let mut plan = plan(folder.path());
        plan["wandb"] = json!({"project": project, "entity": "team"});
        let message = format!("spec.experimentTracker.wandb: {project} is no name of a project: at most 128 characters, and none of / \\ # ? % :");
        assert_eq!(failures(&context(&plan, &[])).await, [failed("Wandb", "UserError", "ProjectNameInvalid", &message)]);
    }
}
