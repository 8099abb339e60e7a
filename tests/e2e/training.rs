//! Runs that train for real, asserted field by field.

use std::collections::BTreeSet;
use std::time::Duration;

use finetune_operator::api::FinetuneRunStatus;
use finetune_operator::api::status::{Phase, Stage};
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt};
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::json;

use crate::bed::{Result, TEAM, call};
use crate::scene::{Scene, TRAINING, event_types, true_conditions};

fn is_training(status: &FinetuneRunStatus) -> bool {
    status.phase == Some(Phase::Running) && status.progress.as_ref().and_then(|p| p.step).is_some_and(|step| step > 0)
}

/// The services' events in their order: any number of checkpoints between start and end.
fn assert_events(status: &FinetuneRunStatus, attempts: usize) {
    let types = event_types(status);
    let once: Vec<_> = types.iter().copied().filter(|t| *t != "CHECKPOINT_SAVED").collect();
    let mut expected = vec!["CREATED", "CHECK_PASSED", "DATA_VALIDATED"];
    for attempt in 1..=attempts {
        expected.extend(["STARTED", "MODEL_INITIALIZED", "TRAIN_STARTED"]);
        expected.push(if attempt == attempts { "TRAIN_FINISHED" } else { "CANCELED" });
    }
    expected.push("COMPLETED");
    assert_eq!(once, expected);
    assert!(types.contains(&"CHECKPOINT_SAVED"), "{types:?}");
}

fn assert_completed(status: &FinetuneRunStatus, name: &str) {
    assert_eq!(status.phase, Some(Phase::Completed), "{status:?}");
    assert_eq!(true_conditions(status), ["Accepted", "PreflightPassed", "DataReady", "Trained", "Registered", "Ready"]);
    assert_eq!(status.failure, None);
    assert_eq!((status.current_job.as_ref(), status.next_attempt_at.as_ref(), status.estimated_end_time.as_ref()), (None, None, None));
    assert!(status.started_at.is_some() && status.completed_at.is_some());
    let progress = status.progress.clone().unwrap_or_default();
    assert_eq!((progress.percent, progress.summary.as_deref(), progress.eta), (Some(100), Some("100%"), None));
    assert!(progress.step.is_some_and(|step| step > 0) && progress.step == progress.total_steps, "{:?}", status.progress);
    assert!(
        progress.loss.is_some_and(f64::is_finite) && progress.learning_rate.is_some() && progress.last_heard_from.is_some(),
        "{:?}",
        status.progress
    );
    let newest: Vec<_> = status.checkpoints.iter().filter(|c| c.newest).collect();
    assert_eq!(newest.len(), 1, "{:?}", status.checkpoints);
    assert_eq!(Some(newest[0].step), progress.step);
    assert!(newest[0].uri.starts_with(&format!("s3://out/team-a/{name}/checkpoints/ep")), "{:?}", newest[0]);
    assert!(status.export.as_ref().is_some_and(|e| e.uri.starts_with(&format!("s3://out/team-a/{name}/hf_checkpoints/"))), "{:?}", status.export);
    let data = status.data.as_ref().and_then(|data| data.train.as_ref());
    assert!(data.is_some_and(|train| train.samples > 0 && train.tokens > 0 && train.mds.starts_with("s3://out/team-a/mds/")), "{:?}", status.data);
    assert!(status.resolved.as_ref().is_some_and(|r| r.interval.is_some()));
}

/// Kubernetes Events say what the status says.
async fn assert_kubernetes_events(scene: &Scene, name: &str, status: &FinetuneRunStatus) -> Result<()> {
    let events: Api<Event> = Api::namespaced(scene.bed.client.clone(), TEAM);
    let fields = ListParams::default().fields(&format!("involvedObject.kind=FinetuneRun,involvedObject.name={name}"));
    let told: BTreeSet<String> = events.list(&fields).await?.items.into_iter().filter_map(|event| event.reason).collect();
    let expected: BTreeSet<String> = event_types(status).into_iter().map(ToOwned::to_owned).collect();
    assert_eq!(told, expected);
    Ok(())
}

async fn assert_outputs(scene: &Scene, name: &str, status: &FinetuneRunStatus) -> Result<()> {
    let keys = scene.bed.keys("out", &format!("team-a/{name}")).await?;
    let has = |suffix: &str| keys.keys().any(|key| key.ends_with(suffix));
    for file in ["owner.json", "preflight.json", "completed.json", "config.json", "model.safetensors", "tokenizer.json"] {
        assert!(has(&format!("/{file}")), "{file} is not among {:?}", keys.keys());
    }
    for checkpoint in &status.checkpoints {
        let key = checkpoint.uri.trim_start_matches("s3://out/");
        assert!(keys.keys().any(|known| known.starts_with(key)), "{key} is not among {:?}", keys.keys());
    }
    let mds = status.data.as_ref().and_then(|data| data.train.as_ref()).map(|train| train.mds.clone()).unwrap_or_default();
    let mds = scene.bed.keys("out", mds.trim_start_matches("s3://out/")).await?;
    assert!(mds.keys().any(|key| key.ends_with("/index.json")) && mds.len() > 1, "{mds:?}");
    Ok(())
}

/// Loss falls, and so does the perplexity where there are evaluation data; all attempts are one `MLflow` run.
async fn assert_tracked(scene: &Scene, name: &str, status: &FinetuneRunStatus, evaluates: bool) -> Result<()> {
    let mlflow = status.tracking.as_ref().and_then(|t| t.mlflow.clone()).ok_or("the run is not tracked")?;
    let run = scene.tracker.run(&mlflow.run_id).await?;
    let tags = run["run"]["data"]["tags"].as_array().cloned().unwrap_or_default();
    let tag = |key: &str| tags.iter().find(|tag| tag["key"] == key).and_then(|tag| tag["value"].as_str().map(ToOwned::to_owned));
    assert_eq!(tag("mlflow.runName").as_deref(), Some(name));
    assert!(tag("finetune.run-uid").is_some());
    assert!(mlflow.url.contains(&mlflow.run_id), "{}", mlflow.url);
    let loss = scene.tracker.history(&mlflow.run_id, "loss/train/total").await?;
    let (first, last) = (loss.first().ok_or("no loss")?.1, loss.last().ok_or("no loss")?.1);
    assert!(last < first, "the loss went from {first} to {last}");
    if evaluates {
        let perplexity = scene.tracker.history(&mlflow.run_id, "metrics/eval/LanguagePerplexity").await?;
        assert!(perplexity.len() >= 2 && perplexity.last().map(|p| p.1) < perplexity.first().map(|p| p.1), "{perplexity:?}");
        assert!(status.progress.as_ref().is_some_and(|p| p.eval_metrics.contains_key("LanguagePerplexity")), "{:?}", status.progress);
    }
    Ok(())
}

/// What `transformers` makes of the export: it must load and answer.
async fn answer(scene: &Scene, status: &FinetuneRunStatus, prompt: &str) -> Result<String> {
    let export = status.export.as_ref().ok_or("there is no export")?.uri.trim_start_matches("s3://out/").to_owned();
    let folder = tempfile::tempdir()?;
    let store = scene.bed.bucket("out")?;
    let files: Vec<_> = store.list(Some(&object_store::path::Path::from(export))).try_collect().await?;
    for file in files {
        let bytes = store.get(&file.location).await?.bytes().await?;
        std::fs::write(folder.path().join(file.location.filename().unwrap_or_default()), bytes)?;
    }
    let trainer = std::env::var("FINETUNE_TRAINER")?;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/runtimes/llm-foundry/tests/answer.py");
    let arguments = [script, &folder.path().to_string_lossy(), prompt];
    call(&std::path::Path::new(&trainer).join("bin/python"), &arguments, &[("HF_HUB_OFFLINE", "1".to_owned())]).await
}

async fn restarts(scene: &Scene) -> Result<i32> {
    let pods: Api<Pod> = Api::namespaced(scene.bed.client.clone(), "finetune-system");
    let list = pods.list(&ListParams::default().labels("app.kubernetes.io/name=finetune-operator")).await?;
    Ok(list.items.iter().flat_map(|pod| pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten())).map(|c| c.restart_count).sum())
}

pub(crate) async fn an_instruction_finetune_survives_a_kill_of_the_operator_and_is_registered(scene: &Scene) -> Result<()> {
    let name = "instruction";
    let run = scene.create("instruction", name, json!({})).await?;
    scene.until(name, TRAINING, is_training).await?;
    let before = restarts(scene).await?;
    let kill = ["enter", "--name", &scene.bed.name, "pkill", "-KILL", "-f", "^/finetune-operator"];
    call(std::path::Path::new(&std::env::var("FINETUNE_TESTBED")?), &kill, &[]).await?;
    scene.wait("the operator was restarted", Duration::from_secs(120), || async { Ok(restarts(scene).await? > before) }).await?;

    let run_uid = run.uid().ok_or("the run has no uid")?;
    let status = scene.end(name, TRAINING).await?.status.unwrap_or_default();
    assert_completed(&status, name);
    assert_events(&status, 1);
    assert_eq!(
        (scene.jobs(name, "preflight").await?.len(), scene.jobs(name, "train").await?.len(), scene.jobs(name, "register").await?.len()),
        (1, 1, 1)
    );
    assert_eq!((status.attempt, status.attempts.len()), (Some(0), 1));
    assert_eq!((status.attempts[0].reason.as_deref(), status.attempts[0].exit_code), (Some("Completed"), Some(0)));
    assert_kubernetes_events(scene, name, &status).await?;
    assert_outputs(scene, name, &status).await?;
    assert_tracked(scene, name, &status, true).await?;

    let wanted = status.resolved.as_ref().and_then(|r| r.register_to.clone()).ok_or("nothing is registered")?;
    let versions = scene.tracker.versions(&wanted).await?;
    assert_eq!(versions.len(), 1, "{versions:?}");
    assert!(versions[0]["tags"].as_array().into_iter().flatten().any(|tag| tag["key"] == "finetune.run-uid" && tag["value"] == run_uid.as_str()));
    let model = status.registered_model.clone().ok_or("there is no registered model")?;
    assert_eq!((model.name.as_str(), model.version.as_str(), model.uri.as_str()), (wanted.as_str(), "1", format!("models:/{wanted}/1").as_str()));

    let tracked = status.tracking.as_ref().and_then(|t| t.mlflow.as_ref()).map(|m| m.run_id.clone()).unwrap_or_default();
    let artifacts = scene.tracker.artifacts(&tracked).await?;
    assert!(artifacts.iter().any(|path| path.contains("generations")), "{artifacts:?}");
    let prompt = run.spec.eval_prompts.iter().flatten().next().ok_or("the example has no prompt")?.clone();
    let said = answer(scene, &status, &prompt).await?;
    assert!(!said.trim().is_empty(), "the model says nothing to {prompt:?}");
    Ok(())
}

pub(crate) async fn a_chat_finetune_is_suspended_and_goes_on_from_its_checkpoint(scene: &Scene) -> Result<()> {
    let name = "chat";
    scene.create("chat", name, json!({})).await?;
    scene.until(name, TRAINING, |status| status.checkpoints.iter().any(|c| c.newest) && is_training(status)).await?;
    scene.suspend(name, true).await?;
    let stopped = scene.until(name, TRAINING, |status| status.phase == Some(Phase::Stopped)).await?.status.unwrap_or_default();
    assert_eq!((stopped.reason.as_deref(), stopped.current_job), (Some("Suspended"), None));
    assert!(scene.pods(name).await?.iter().all(|pod| pod.labels().get("finetune.dev/stage").map(String::as_str) != Some(Stage::Train.as_str())));
    let kept = stopped.checkpoints.iter().find(|c| c.newest).ok_or("no checkpoint was kept")?.step;
    assert!(kept > 0);
    scene.suspend(name, false).await?;
    let resumed = scene.until(name, TRAINING, |status| status.attempt == Some(1) && is_training(status)).await?.status.unwrap_or_default();
    let step = resumed.progress.and_then(|p| p.step).unwrap_or(0);
    assert!(step > kept, "the second attempt is at step {step}, the checkpoint was at {kept}");

    let status = scene.end(name, TRAINING).await?.status.unwrap_or_default();
    assert_completed(&status, name);
    assert_events(&status, 2);
    assert_eq!(status.attempts.iter().map(|a| a.reason.clone().unwrap_or_default()).collect::<Vec<_>>(), ["Suspended", "Completed"]);
    assert_eq!(status.attempts[1].resumed_from_step, Some(kept));
    assert_eq!(scene.jobs(name, "train").await?.len(), 1, "the Job of the first attempt is gone");
    let train = status.data.as_ref().and_then(|data| data.train.clone()).unwrap_or_default();
    assert_eq!((train.dropped, train.samples), (1, train.rows - 1));
    assert_outputs(scene, name, &status).await?;
    assert_tracked(scene, name, &status, false).await
}

pub(crate) async fn a_folder_of_text_is_pretrained_on(scene: &Scene) -> Result<()> {
    let name = "pretrain";
    scene.create("pretrain", name, json!({})).await?;
    let status = scene.end(name, TRAINING).await?.status.unwrap_or_default();
    assert_completed(&status, name);
    assert_events(&status, 1);
    assert_kubernetes_events(scene, name, &status).await?;
    assert_outputs(scene, name, &status).await?;
    assert_tracked(scene, name, &status, false).await
}

pub(crate) async fn deleting_a_run_in_mid_training_leaves_no_pod(scene: &Scene) -> Result<()> {
    let name = "deleted";
    scene.create("pretrain", name, json!({"trainingDuration": "50ep"})).await?;
    scene.until(name, TRAINING, is_training).await?;
    scene.runs().delete(name, &DeleteParams::default()).await?;
    scene
        .wait("all pods and Jobs of the run are gone", Duration::from_secs(180), || async {
            Ok(scene.pods(name).await?.is_empty() && scene.jobs(name, "train").await?.is_empty() && scene.jobs(name, "preflight").await?.is_empty())
        })
        .await?;
    assert!(scene.runs().get_opt(name).await?.is_none());
    let keys = scene.bed.keys("out", &format!("team-a/{name}")).await?;
    assert!(keys.keys().any(|key| key.ends_with("owner.json")), "outputs stay: {keys:?}");
    Ok(())
}
