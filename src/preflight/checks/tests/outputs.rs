use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::preflight::checks::{Ask, answered, prove};
use crate::preflight::fake::{Server, answer, context, failed, failures, plan, said};
use crate::preflight::verdict::CheckName;

fn names(folder: &std::path::Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_good_run_passes_every_check_and_leaves_only_its_claim() {
    let folder = tempfile::tempdir().unwrap();
    let context = context(&plan(folder.path()), &[]);
    let checks = prove(&context, Instant::now() + Duration::from_secs(60)).await;
    assert_eq!(said(&checks), Vec::<[String; 4]>::new());
    let asked: Vec<_> = checks.iter().map(|check| check.name.as_str()).collect();
    assert_eq!(asked, ["Secrets", "SaveFolder", "Claim", "Model", "TrainData"]);
    assert_eq!(names(&folder.path().join("out/my-run")), ["owner.json"]);
    let owner: Value = serde_json::from_slice(&std::fs::read(folder.path().join("out/my-run/owner.json")).unwrap()).unwrap();
    assert_eq!(owner, json!({"version": 1, "uid": "u-1", "namespace": "team-a", "name": "my-run", "specHash": "h"}));
}

#[tokio::test]
async fn a_folder_is_the_first_ones_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let mut plan = plan(folder.path());
    let none = Vec::<[String; 4]>::new();
    assert_eq!(failures(&context(&plan, &[])).await, none);
    assert_eq!(failures(&context(&plan, &[])).await, none, "the same run again");
    let owner = std::fs::read(folder.path().join("out/my-run/owner.json")).unwrap();
    plan["run"]["uid"] = json!("u-2");
    let place = format!("{}/out/my-run", folder.path().display());
    let message =
        format!("spec.saveFolder: {place} belongs to an earlier run team-a/my-run with uid u-1; rename this run or use another save folder");
    assert_eq!(failures(&context(&plan, &[])).await, [failed("Claim", "UserError", "SaveFolderInUse", &message)]);
    assert_eq!(std::fs::read(folder.path().join("out/my-run/owner.json")).unwrap(), owner);
}

#[tokio::test]
async fn of_two_runs_that_claim_at_once_one_wins() {
    for _ in 0..20 {
        let folder = tempfile::tempdir().unwrap();
        let mut plan = plan(folder.path());
        plan["checkCredentials"] = json!(false);
        let first = context(&plan, &[]);
        plan["run"]["uid"] = json!("u-2");
        let second = context(&plan, &[]);
        let (first, second) = tokio::join!(failures(&first), failures(&second));
        assert_eq!(first.len() + second.len(), 1, "{first:?} {second:?}");
    }
}

#[tokio::test]
async fn a_folder_with_a_foreign_owner_file_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(folder.path());
    std::fs::create_dir(folder.path().join("out/my-run")).unwrap();
    std::fs::write(folder.path().join("out/my-run/owner.json"), "mine\n").unwrap();
    let failures = failures(&context(&plan, &[])).await;
    let place = format!("{}/out/my-run", folder.path().display());
    let message = format!(
        "spec.saveFolder: {place} belongs to somebody else: its owner.json was not written by a run; rename this run or use another save folder"
    );
    assert_eq!(failures, [failed("Claim", "UserError", "SaveFolderInUse", &message)]);
    assert_eq!(std::fs::read(folder.path().join("out/my-run/owner.json")).unwrap(), b"mine\n");
}

#[tokio::test]
async fn without_credential_checks_only_secrets_and_claim_are_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::answering(|_| answer(500, "")).await;
    let mut plan = plan(folder.path());
    plan["checkCredentials"] = json!(false);
    plan["train"] = json!("s3://nothing/there.jsonl");
    plan["mlflow"] = json!({"trackingUri": server.address, "experimentPath": "/x", "registry": "a.b"});
    plan["s3"] = json!({"endpointUrl": server.address});
    let checks = prove(&context(&plan, &[]), Instant::now() + Duration::from_secs(60)).await;
    assert_eq!(checks.iter().map(|check| (check.name.as_str(), check.passed)).collect::<Vec<_>>(), [("Secrets", true), ("Claim", true)]);
    assert_eq!(server.seen(), []);
}

#[tokio::test]
async fn what_needs_a_missing_secret_is_said_once() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::answering(|_| answer(200, "")).await;
    let mut plan = plan(folder.path());
    plan["train"] = json!("s3://data/train.jsonl");
    plan["saveFolder"] = json!("s3://out/x");
    plan["s3"] = json!({"endpointUrl": server.address});
    std::fs::remove_file(folder.path().join("s3/AWS_SECRET_ACCESS_KEY")).unwrap();
    let message = "spec.secrets: Secret my-s3 lacks AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or a file credentials); add what is missing";
    assert_eq!(failures(&context(&plan, &[])).await, [failed("Secrets", "CredentialError", "SecretKeyMissing", message)]);
    assert_eq!(server.seen(), []);
}

#[tokio::test]
async fn all_failures_are_reported_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut plan = plan(folder.path());
    let at = |name: &str| format!("{}/{name}", folder.path().display());
    plan["train"] = json!(at("nothing.jsonl"));
    plan["eval"] = json!(at("empty.jsonl"));
    std::fs::write(folder.path().join("empty.jsonl"), "").unwrap();
    let index = json!({"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors", "c": "m-3.safetensors"}}).to_string();
    std::fs::write(folder.path().join("model/model.safetensors.index.json"), index).unwrap();
    std::fs::write(folder.path().join("model/m-1.safetensors"), "x").unwrap();
    plan["customWeights"] = json!(at("model"));
    let expected = [
        failed(
            "Model",
            "UserError",
            "ModelIncomplete",
            &format!(
                "spec.model: {}: 2 of the shards that its index lists are missing, m-2.safetensors among them; upload the whole model",
                at("model")
            ),
        ),
        failed(
            "TrainData",
            "UserError",
            "ObjectMissing",
            &format!("spec.trainDataPath: {} does not exist; upload it or name another", at("nothing.jsonl")),
        ),
        failed("EvalData", "DataError", "EmptyData", &format!("spec.evalDataPath: {} is empty: it needs at least one row", at("empty.jsonl"))),
        failed(
            "CustomWeights",
            "UserError",
            "CheckpointMissing",
            &format!("spec.customWeightsPath: {} has no .distcp file: name a checkpoint folder, a .symlink or a .pt file", at("model")),
        ),
    ];
    assert_eq!(failures(&context(&plan, &[])).await, expected);
}

#[tokio::test]
async fn a_service_that_never_answers_ends_with_the_deadline() {
    let folder = tempfile::tempdir().unwrap();
    // Connections are taken and nothing is ever said.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut plan = plan(folder.path());
    plan["train"] = json!("s3://data/train.jsonl");
    plan["s3"] = json!({"endpointUrl": format!("http://{}", silent.local_addr().unwrap())});
    let checks = prove(&context(&plan, &[]), Instant::now() + Duration::from_millis(300)).await;
    let message = "spec.trainDataPath: the check did not end within its time: a service does not answer, or the network drops what is sent to it";
    assert_eq!(said(&checks), [failed("TrainData", "Infrastructure", "DeadlineExceeded", message)]);
}

#[tokio::test]
async fn a_probe_is_deleted_though_its_check_was_given_up() {
    let folder = tempfile::tempdir().unwrap();
    // The object is stored and nobody is told.
    let server = Server::answering(|seen| if seen.method == "PUT" { answer(503, "") } else { answer(204, "") }).await;
    let mut plan = plan(folder.path());
    plan["saveFolder"] = json!("s3://out/x");
    plan["s3"] = json!({"endpointUrl": server.address});
    let context = context(&plan, &[]);
    let checks = prove(&context, Instant::now() + Duration::from_millis(1)).await;
    assert_eq!(said(&checks)[0][..3], ["SaveFolder", "Infrastructure", "DeadlineExceeded"]);
    context.unfinished.close();
    context.unfinished.wait().await;
    let last = server.seen().pop().unwrap();
    assert_eq!((last.method.as_str(), last.path.as_str()), ("POST", "/out?delete"));
    assert!(String::from_utf8(last.body).unwrap().contains("<Key>x/my-run/preflight-probe-u-1</Key>"));
}

#[tokio::test]
async fn no_check_says_what_is_in_a_secret() {
    let folder = tempfile::tempdir().unwrap();
    let mut plan = plan(folder.path());
    // Each value is its own canary, in a form that its kind does not take.
    let secrets = [
        ("s3", "credentials", "[default]\naws_secret_access_key=hf_canary-of-a-secret\nrole_arn=hf_canary-of-a-secret"),
        ("gcp", "credentials", "{\"type\":\"hf_canary-of-a-secret\"}"),
        ("azure", "AZURE_STORAGE_ACCOUNT_NAME", "hf_canary-of-a-secret"),
        ("azure", "AZURE_STORAGE_ACCOUNT_KEY", "hf_canary-of-a-secret"),
        ("oci", "config", "[DEFAULT]\nuser=hf_canary-of-a-secret"),
        ("oci", "key_file", "hf_canary-of-a-secret"),
        ("databricks", "DATABRICKS_HOST", "https://u:hf_canary-of-a-secret@h"),
        ("databricks", "DATABRICKS_TOKEN", "hf_canary-of-a-secret"),
        ("hf", "HF_TOKEN", "not-hf_canary-of-a-secret"),
    ];
    let mut mounts = Vec::new();
    for (kind, key, value) in secrets {
        let path = folder.path().join("malformed").join(kind);
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join(key), value).unwrap();
        let mount = json!({"name": format!("bad-{kind}"), "kind": kind, "path": path});
        if !mounts.contains(&mount) {
            mounts.push(mount);
        }
    }
    plan["secrets"] = json!(mounts);
    let found = failures(&context(&plan, &[])).await;
    let message = "spec.secrets: the profile default of Secret bad-s3 has no aws_access_key_id and aws_secret_access_key: roles, SSO and processes are not \
                   supported. credentials of Secret bad-gcp is not the JSON key file of a service account; put that there. AZURE_STORAGE_ACCOUNT_NAME of \
                   Secret bad-azure is not the name of a storage account; put that there. config of Secret bad-oci is not a section DEFAULT with tenancy, \
                   user, fingerprint and region; put that there. DATABRICKS_HOST of Secret bad-databricks is not https:// and the host of a workspace; put \
                   that there. HF_TOKEN of Secret bad-hf is not a token of the hub, which starts with hf_; put that there";
    assert_eq!(found, [failed("Secrets", "CredentialError", "ProfileUnsupported", message)]);
}

#[tokio::test]
async fn a_check_that_crashes_is_one_failed_check() {
    let ask = Ask::new(CheckName::Model, "spec.model", async { panic!("a library's own bug") });
    let check = answered(ask, Instant::now() + Duration::from_secs(5)).await;
    assert_eq!(said(&[check]), [failed("Model", "Infrastructure", "Crashed", "spec.model: the check crashed")]);
}
