//! What must not train: each with a message that names the field and the object, and no train Job.

use finetune_operator::api::FinetuneRunStatus;
use finetune_operator::api::status::{FailureClass, Phase};
use serde_json::{Value, json};

use crate::bed::{Result, TEAM};
use crate::scene::{PREFLIGHT, Scene, event_types};

/// Makes a run that must fail in its preflight, and checks class, words and that nothing was trained.
async fn fails(scene: &Scene, example: &str, name: &str, changes: Value, class: FailureClass, words: &[&str]) -> Result<FinetuneRunStatus> {
    scene.create(example, name, changes).await?;
    let status = scene.end(name, PREFLIGHT).await?.status.unwrap_or_default();
    assert_eq!(status.phase, Some(Phase::Failed), "{status:?}");
    let failure = status.failure.clone().ok_or("there is no failure")?;
    assert_eq!(failure.class, class, "{failure:?}");
    for word in words {
        assert!(failure.message.contains(word), "{word:?} is not in {:?}", failure.message);
    }
    assert_eq!(event_types(&status), ["CREATED", "CHECK_FAILED", "FAILED"]);
    assert_eq!(scene.jobs(name, "train").await?.len(), 0);
    assert_eq!(scene.jobs(name, "preflight").await?.len(), 1);
    Ok(status)
}

pub(crate) async fn a_wrong_secret_fails_before_any_training(scene: &Scene) -> Result<()> {
    let status =
        fails(scene, "bad-secret", "bad-secret", json!({}), FailureClass::CredentialError, &["spec.saveFolder", "wrong-s3-credentials"]).await?;
    let failure = status.failure.ok_or("there is no failure")?;
    assert!((30..40).contains(&failure.exit_code.ok_or("there is no exit code")?));
    Ok(())
}

pub(crate) async fn a_broken_chat_row_fails_before_any_training(scene: &Scene) -> Result<()> {
    fails(scene, "bad-row", "bad-row", json!({}), FailureClass::DataError, &["spec.trainDataPath", "line"]).await.map(|_| ())
}

/// Makes a run that must wait for a Secret, and checks its words; the run is taken away again.
async fn waits(scene: &Scene, name: &str, secret: &str, reason: &str, words: &[&str]) -> Result<()> {
    let secrets = json!([{"name": secret, "kind": "s3"}]);
    scene.create("instruction", name, json!({"secrets": secrets, "registerTo": null, "evalDataPath": null})).await?;
    let run = scene.until(name, PREFLIGHT, |status| status.reason.as_deref() == Some(reason)).await?;
    let status = run.status.unwrap_or_default();
    assert_eq!(status.phase, Some(Phase::Pending));
    let message = status.message.unwrap_or_default();
    for word in words {
        assert!(message.contains(word), "{word:?} is not in {message:?}");
    }
    assert_eq!(event_types(&scene.runs().get(name).await?.status.unwrap_or_default()), ["CREATED"]);
    Ok(())
}

pub(crate) async fn a_missing_secret_is_waited_for_by_name(scene: &Scene) -> Result<()> {
    waits(scene, "no-secret", "s3-later", "SecretMissing", &["s3-later"]).await?;
    scene.bed.s3_secret("s3-later", scene.bed.value("TESTBED_S3_KEY"), scene.bed.value("TESTBED_S3_SECRET")).await?;
    scene.until("no-secret", PREFLIGHT, |status| event_types(status).contains(&"CHECK_PASSED")).await?;
    scene.runs().delete("no-secret", &kube::api::DeleteParams::default()).await?;
    Ok(())
}

pub(crate) async fn a_secret_without_its_key_is_waited_for_by_key(scene: &Scene) -> Result<()> {
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3-half", "namespace": TEAM}, "stringData": {"AWS_ACCESS_KEY_ID": "finetune"}});
    scene.bed.apply_object(&secret).await?;
    waits(scene, "half-secret", "s3-half", "SecretKeyMissing", &["s3-half", "AWS_SECRET_ACCESS_KEY"]).await?;
    scene.runs().delete("half-secret", &kube::api::DeleteParams::default()).await?;
    Ok(())
}

pub(crate) async fn a_save_folder_without_write_permission_is_refused(scene: &Scene) -> Result<()> {
    let changes = json!({"secrets": [{"name": "s3-readonly", "kind": "s3"}]});
    fails(scene, "instruction", "readonly", changes, FailureClass::CredentialError, &["spec.saveFolder", "s3-readonly"]).await.map(|_| ())
}

pub(crate) async fn data_that_do_not_exist_are_refused(scene: &Scene) -> Result<()> {
    let changes = json!({"trainDataPath": "s3://data/nowhere/train.jsonl"});
    fails(scene, "instruction", "no-data", changes, FailureClass::UserError, &["spec.trainDataPath", "s3://data/nowhere/train.jsonl"])
        .await
        .map(|_| ())
}

/// Makes a run whose training data are `text`.
async fn with_rows(scene: &Scene, name: &str, text: &str, words: &[&str]) -> Result<()> {
    use object_store::ObjectStoreExt;
    let key = format!("e2e/{name}.jsonl");
    let store = scene.bed.bucket("data")?;
    store.put(&object_store::path::Path::from(key.as_str()), text.to_owned().into()).await?;
    let changes = json!({"trainDataPath": format!("s3://data/{key}")});
    fails(scene, "instruction", name, changes, FailureClass::DataError, words).await.map(|_| ())
}

pub(crate) async fn empty_data_are_refused(scene: &Scene) -> Result<()> {
    with_rows(scene, "empty", "", &["spec.trainDataPath", "empty"]).await
}

pub(crate) async fn a_row_that_is_not_json_is_refused(scene: &Scene) -> Result<()> {
    with_rows(scene, "not-json", "{\"prompt\": \"a\", \"response\": \"b\"}\nnot json\n", &["spec.trainDataPath", "line 2"]).await
}

pub(crate) async fn rows_with_wrong_keys_are_refused(scene: &Scene) -> Result<()> {
    with_rows(scene, "wrong-keys", "{\"question\": \"a\", \"answer\": \"b\"}\n", &["line 1", "UnknownExampleType"]).await
}

/// Makes a run that cannot be accepted, and checks its words; it may be mended in place.
async fn not_accepted(scene: &Scene, name: &str, changes: Value, reason: &str, words: &[&str]) -> Result<()> {
    scene.create("instruction", name, changes).await?;
    let status = scene.until(name, PREFLIGHT, |status| status.phase.is_some()).await?.status.unwrap_or_default();
    assert_eq!((status.phase, status.reason.as_deref()), (Some(Phase::Pending), Some(reason)));
    let message = status.message.unwrap_or_default();
    for word in words {
        assert!(message.contains(word), "{word:?} is not in {message:?}");
    }
    assert_eq!(scene.pods(name).await?.len(), 0);
    scene.runs().delete(name, &kube::api::DeleteParams::default()).await?;
    Ok(())
}

pub(crate) async fn an_unknown_model_names_the_closest(scene: &Scene) -> Result<()> {
    not_accepted(scene, "no-model", json!({"model": "demo/tiny-lama"}), "ModelNotFound", &["spec.model", "demo/tiny-lama", "demo/tiny-llama"]).await
}

pub(crate) async fn a_context_length_above_the_maximum_names_both_numbers(scene: &Scene) -> Result<()> {
    not_accepted(scene, "too-long", json!({"contextLength": 4096}), "ContextTooLong", &["spec.contextLength", "4096", "512"]).await
}

/// A run that was deleted and made anew under its name must not take over what the first one wrote.
pub(crate) async fn a_save_folder_of_another_run_is_refused(scene: &Scene) -> Result<()> {
    use object_store::ObjectStoreExt;
    let owner = json!({"version": 1, "uid": "somebody-else", "namespace": TEAM, "name": "taken", "specHash": "x"}).to_string();
    scene.bed.bucket("out")?.put(&object_store::path::Path::from("team-a/taken/owner.json"), owner.into()).await?;
    let status = fails(scene, "instruction", "taken", json!({}), FailureClass::UserError, &["spec.saveFolder", "s3://out/team-a"]).await?;
    assert_eq!(status.reason.as_deref(), Some("SaveFolderInUse"));
    Ok(())
}
