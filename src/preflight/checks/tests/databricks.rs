use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::preflight::address::Policy;
use crate::preflight::checks::{Context, prove};
use crate::preflight::fake::databricks::{Content, HOST, ME, Shared, workspace};
use crate::preflight::fake::{Server, answer, context_of, failed, failures, plan, said};

const ADDRESS: &str = "https://dbc-1.cloud.databricks.com";

type Change = fn(&mut Value);

struct Case {
    _folder: tempfile::TempDir,
    server: Server,
    kept: Shared,
    context: Context,
}

async fn case(content: Content, change: impl FnOnce(&mut Value)) -> Case {
    let folder = tempfile::tempdir().unwrap();
    let (server, kept) = workspace(content).await;
    let mut plan = plan(folder.path());
    change(&mut plan);
    let asks = context_of(&plan, &[], Policy::open(), &[(HOST, &server.address)]);
    Case { _folder: folder, server, kept, context: asks }
}

/// Reasons of the failed checks.
async fn reasons(content: Content, change: impl FnOnce(&mut Value)) -> Vec<(String, String)> {
    let case = case(content, change).await;
    failures(&case.context).await.into_iter().map(|[name, _, reason, _]| (name, reason)).collect()
}

fn expect(name: &str, reason: Option<&str>) -> Vec<(String, String)> {
    reason.map(|reason| (name.to_owned(), reason.to_owned())).into_iter().collect()
}

fn files(paths: &[&str]) -> Content {
    Content { files: paths.iter().map(|path| ((*path).to_owned(), b"{}\n".to_vec())).collect(), ..Content::default() }
}

#[tokio::test]
async fn a_file_of_a_volume_is_a_jsonl_file_at_least_three_levels_down() {
    let there = "/Volumes/main/raw/v/a b/train.jsonl";
    for (path, reason) in [
        ("dbfs:/Volumes/main/raw/v/a b/train.jsonl", None),
        ("/Volumes/main/raw/v/a b/train.jsonl", None),
        ("dbfs:/Volumes/main/raw/v/a b/other.jsonl", Some("ObjectMissing")),
        ("dbfs:/Volumes/main/raw/v/a b/train.csv", Some("PlaceInvalid")),
        ("dbfs:/Volumes/main/train.jsonl", Some("PlaceInvalid")),
        ("dbfs:/databricks/x/y/z/train.jsonl", Some("PlaceInvalid")),
    ] {
        assert_eq!(reasons(files(&[there]), |plan| plan["train"] = json!(path)).await, expect("TrainData", reason), "{path}");
    }
    let mut content = files(&[there]);
    content.refused.insert("api/2.0/fs".into(), 403);
    let case = case(content, |plan| plan["train"] = json!("dbfs:/Volumes/main/raw/v/a b/train.jsonl")).await;
    let message = "spec.trainDataPath: cannot read dbfs:/Volumes/main/raw/v/a b/train.jsonl (bucket v): the store answered 403 PERMISSION_DENIED to the \
                   key of Secret my-databricks; allow that key to use the bucket, or check DATABRICKS_HOST and DATABRICKS_TOKEN in Secret my-databricks";
    assert_eq!(failures(&case.context).await, [failed("TrainData", "CredentialError", "AccessDenied", message)]);
}

#[tokio::test]
async fn a_folder_of_a_volume_is_walked_to_its_first_text() {
    let text = |plan: &mut Value| {
        plan["taskType"] = json!("CONTINUED_PRETRAIN");
        plan["train"] = json!("dbfs:/Volumes/main/raw/v");
    };
    let root = "/Volumes/main/raw/v";
    let deep = ["a.md", "b.md", "c.md", "d/e/f.md", "d/e/g.txt", "h.md"].map(|name| format!("{root}/{name}"));
    let deep: Vec<_> = deep.iter().map(String::as_str).collect();
    let case = case(files(&deep), text).await;
    assert_eq!(failures(&case.context).await, Vec::<[String; 4]>::new());
    let pages = case.server.asked();
    assert_eq!(pages[0], format!("GET /api/2.0/fs/directories{root}?page_size=1000"));
    assert!(pages.contains(&format!("GET /api/2.0/fs/directories{root}/d/e?page_size=1000")), "{pages:?}");

    assert_eq!(reasons(files(&deep[..4]), text).await, expect("TrainData", Some("NoTextFiles")));
    assert_eq!(reasons(files(&[]), text).await, expect("TrainData", Some("ObjectMissing")));
}

#[tokio::test]
async fn a_save_folder_on_a_volume_is_written_and_claimed_once() {
    let case = case(Content::default(), |plan| plan["saveFolder"] = json!("dbfs:/Volumes/main/out/v/runs")).await;
    assert_eq!(failures(&case.context).await, Vec::<[String; 4]>::new());
    let kept: Vec<_> = case.kept.lock().unwrap().files.keys().cloned().collect();
    assert_eq!(kept, ["/Volumes/main/out/v/runs/my-run/owner.json"]);
    let mut other = case.context.clone();
    other.plan.run.uid = "u-2".into();
    assert_eq!(failures(&other).await[0][2], "SaveFolderInUse");
}

fn cluster(change: impl FnOnce(&mut Value)) -> Content {
    let mut mine = json!({"cluster_id": "c-1", "spark_version": "14.3.x-scala2.12", "data_security_mode": "SINGLE_USER"});
    change(&mut mine);
    let other = json!({"cluster_id": "c-0"});
    Content { tables: vec!["main.raw.rows".into()], clusters: vec![other, mine], ..Content::default() }
}

#[tokio::test]
async fn a_table_is_there_and_its_cluster_can_read_it() {
    let table = |plan: &mut Value| {
        plan["train"] = json!("main.raw.rows");
        plan["cluster"] = json!("c-1");
    };
    assert_eq!(reasons(cluster(|_| ()), table).await, []);
    let cases: [(Change, &str); 6] = [
        (|cluster| cluster["cluster_id"] = json!("c-2"), "ClusterNotAccessible"),
        (|cluster| cluster["hidden"] = json!(true), "ClusterNotAccessible"),
        (|cluster| cluster["data_security_mode"] = json!("NONE"), "ClusterUngoverned"),
        (|cluster| cluster["data_security_mode"] = Value::Null, "ClusterUngoverned"),
        (|cluster| cluster["spark_version"] = json!("12.1.x-scala2.12"), "ClusterTooOld"),
        (|cluster| cluster["spark_version"] = Value::Null, "ClusterTooOld"),
    ];
    for (change, reason) in cases {
        assert_eq!(reasons(cluster(change), table).await, expect("Cluster", Some(reason)), "{reason}");
    }
    assert_eq!(reasons(cluster(|cluster| cluster["spark_version"] = json!("12.2.x-scala2.12")), table).await, []);
    let with = |id: Value| move |plan: &mut Value| (plan["train"], plan["cluster"]) = (json!("main.raw.rows"), id);
    assert_eq!(reasons(cluster(|_| ()), with(Value::Null)).await, expect("Cluster", Some("ClusterMissing")));
    assert_eq!(reasons(cluster(|_| ()), with(json!("serverless"))).await, expect("Cluster", Some("ClusterUnsupported")));
}

#[tokio::test]
async fn a_table_that_cannot_be_read_says_why() {
    let other = |plan: &mut Value| (plan["train"], plan["cluster"]) = (json!("main.raw.other"), json!("c-1"));
    assert_eq!(reasons(cluster(|_| ()), other).await, expect("TrainData", Some("TableMissing")));
    for (status, reason) in [(403, "AccessDenied"), (400, "RequestRefused"), (503, "ServiceUnavailable")] {
        let mut content = cluster(|_| ());
        content.refused.insert("api/2.1/unity-catalog/tables".into(), status);
        assert_eq!(reasons(content, other).await, expect("TrainData", Some(reason)));
    }
    let text =
        |plan: &mut Value| (plan["train"], plan["cluster"], plan["taskType"]) = (json!("main.raw.rows"), json!("c-1"), json!("CONTINUED_PRETRAIN"));
    assert_eq!(reasons(cluster(|_| ()), text).await, expect("TrainData", Some("PlaceInvalid")));
}

fn registry(name: &str) -> impl FnOnce(&mut Value) {
    let name = name.to_owned();
    move |plan| plan["mlflow"] = json!({"trackingUri": "databricks", "experimentPath": "/Users/me/x", "registry": name})
}

fn catalog() -> Content {
    let held = |name: &str, privilege: &str| (name.to_owned(), vec!["BROWSE".to_owned(), privilege.to_owned()]);
    Content {
        privileges: [held("catalog/main", "USE_CATALOG"), held("schema/main.models", "ALL_PRIVILEGES")].into(),
        models: [("main.models.mine".to_owned(), ME.to_owned()), ("main.models.theirs".to_owned(), "x".to_owned())].into(),
        ..Content::default()
    }
}

#[tokio::test]
async fn a_model_of_ones_own_or_a_new_one_can_be_registered() {
    for name in ["main.models.mine", "main.models.new", "main.models"] {
        let case = case(catalog(), registry(name)).await;
        assert_eq!(failures(&case.context).await, Vec::<[String; 4]>::new(), "{name}");
        let content = case.kept.lock().unwrap();
        assert_eq!(content.models.keys().collect::<Vec<_>>(), ["main.models.mine", "main.models.theirs"], "no probe is left");
        assert_eq!(content.experiments, ["/Users/me/x"]);
    }
    assert_eq!(reasons(catalog(), registry("main.models.theirs")).await, expect("Registry", Some("ModelNotOwned")));
    assert_eq!(reasons(catalog(), registry("main.none.new")).await, expect("Registry", Some("SchemaMissing")));
    for (name, reason) in [("catalog/main", "CatalogMissing"), ("schema/main.models", "SchemaMissing")] {
        let mut content = catalog();
        content.privileges.remove(name);
        assert_eq!(reasons(content, registry("main.models.mine")).await, expect("Registry", Some(reason)));
        let mut content = catalog();
        content.privileges.insert(name.to_owned(), vec!["BROWSE".into()]);
        assert_eq!(reasons(content, registry("main.models.mine")).await, expect("Registry", Some("PrivilegeMissing")));
    }
    for refused in ["api/2.1/unity-catalog/models", "api/2.1/unity-catalog/effective-permissions"] {
        let mut content = catalog();
        content.refused.insert(refused.into(), 403);
        assert_eq!(reasons(content, registry("main.models.mine")).await, expect("Registry", Some("AccessDenied")), "{refused}");
    }
    let relative = |plan: &mut Value| plan["mlflow"] = json!({"experimentPath": "x"});
    assert_eq!(reasons(catalog(), relative).await, expect("Mlflow", Some("ExperimentPathInvalid")));
}

#[tokio::test]
async fn what_a_killed_preflight_left_is_deleted_by_the_next() {
    let mut content = catalog();
    content.models.insert("main.models.finetune-preflight-probe-u-1".into(), ME.into());
    let case = case(content, registry("main.models")).await;
    assert_eq!(failures(&case.context).await, Vec::<[String; 4]>::new());
    assert_eq!(case.kept.lock().unwrap().models.len(), 2);
}

#[tokio::test]
async fn a_probe_model_is_deleted_though_its_check_was_given_up() {
    let folder = tempfile::tempdir().unwrap();
    // The model is made and nobody is told.
    let server = Server::answering(|seen| if seen.method == "POST" { answer(503, "") } else { answer(200, "{}") }).await;
    let mut plan = plan(folder.path());
    registry("main.models")(&mut plan);
    let context = context_of(&plan, &[], Policy::open(), &[(HOST, &server.address)]);
    let checks = prove(&context, Instant::now() + Duration::from_millis(1)).await;
    assert!(said(&checks).iter().any(|failed| failed[..3] == ["Registry", "Infrastructure", "DeadlineExceeded"]));
    context.unfinished.close();
    context.unfinished.wait().await;
    let last = server.asked().pop();
    assert_eq!(last.as_deref(), Some("DELETE /api/2.1/unity-catalog/models/main.models.finetune-preflight-probe-u-1"));
}

#[tokio::test]
async fn a_checkpoint_among_artifacts_is_a_pointer_a_file_or_a_folder_of_shards() {
    let content = || Content {
        artifacts: [("ab1".to_owned(), ["x/ep1-ba2/__0_0.distcp", "x/latest.symlink", "x/ep1.pt", "logs/a.txt"].map(str::to_owned).into())].into(),
        ..Content::default()
    };
    let root = "dbfs:/databricks/mlflow-tracking/12/ab1/artifacts";
    for (path, reason) in [
        ("x/ep1-ba2", None),
        ("x/latest.symlink", None),
        ("x/ep1.pt", None),
        ("x/ep2.pt", Some("ObjectMissing")),
        ("x", Some("CheckpointMissing")),
        ("logs", Some("CheckpointMissing")),
        ("none", Some("ObjectMissing")),
        ("x/model.safetensors", Some("PlaceInvalid")),
        ("", Some("PlaceInvalid")),
    ] {
        let found = reasons(content(), |plan| plan["customWeights"] = json!(format!("{root}/{path}"))).await;
        assert_eq!(found, expect("CustomWeights", reason), "{path}");
    }
    let other_run = "/databricks/mlflow-tracking/12/ab2/artifacts/x";
    assert_eq!(reasons(content(), |plan| plan["customWeights"] = json!(other_run)).await, expect("CustomWeights", Some("ObjectMissing")));
}

#[tokio::test]
async fn a_workspace_that_refuses_the_token_is_named() {
    let case = case(Content::default(), |plan| (plan["train"], plan["cluster"]) = (json!("a.b.c"), json!("c-1"))).await;
    let path = case.context.secrets.iter().find(|secret| secret.name == "my-databricks").unwrap().path.clone();
    std::fs::write(format!("{path}/DATABRICKS_TOKEN"), "another-canary").unwrap();
    let message = format!(
        "spec.trainDataPath: cannot read the table a.b.c at {ADDRESS}: the server answered 401 UNAUTHENTICATED to the token of Secret my-databricks; \
         check it"
    );
    assert_eq!(failures(&case.context).await[0], failed("TrainData", "CredentialError", "Unauthenticated", &message));
}
