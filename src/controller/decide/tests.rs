//! What the run's life looks like, told as whole stories against the model cluster.

use super::Change;
use super::scenario::{Cluster, Writes};
use crate::api::FinetuneRun;
use crate::api::status::{FailureClass, Phase, Stage};
use crate::controller::facts::Container;

/// Brings a run to the point where the Job of `stage` runs.
fn running(mut cluster: Cluster, stage: Stage) -> Cluster {
    for _ in 0..4 {
        cluster.settle();
        match cluster.current() {
            Some((current, _)) if current == stage => return cluster,
            _ => cluster.end_well(),
        }
    }
    panic!("{stage:?} never ran: {:?}", cluster.status());
}

fn sample() -> Cluster {
    Cluster::new(FinetuneRun::sample())
}

#[test]
fn a_good_run_makes_three_jobs_once_each_and_completes() {
    let mut cluster = running(Cluster::registering(), Stage::Register);
    assert_eq!(cluster.status().reason.as_deref(), Some("Registering"));
    cluster.end_well();
    cluster.settle();
    let status = cluster.status();
    assert_eq!(cluster.phase(), Phase::Completed);
    assert_eq!(cluster.created.values().copied().collect::<Vec<_>>(), [1, 1, 1]);
    assert_eq!(cluster.event_types(), ["CREATED", "CHECK_PASSED", "DATA_VALIDATED", "STARTED", "TRAIN_FINISHED", "COMPLETED"]);
    assert_eq!(status.registered_model.map(|m| m.uri).as_deref(), Some("models:/main.models.sample/1"));
    assert_eq!(
        status.conditions.iter().filter(|c| c.status == "True").map(|c| c.type_.as_str()).collect::<Vec<_>>(),
        ["Accepted", "PreflightPassed", "DataReady", "Trained", "Registered", "Ready"]
    );
    assert_eq!(status.attempts.len(), 1);
}

#[test]
fn a_run_that_registers_nothing_ends_after_training() {
    let mut cluster = running(sample(), Stage::Train);
    cluster.end_well();
    cluster.settle();
    assert_eq!((cluster.phase(), cluster.created.len()), (Phase::Completed, 2));
}

#[test]
fn an_unknown_model_waits_and_names_the_closest() {
    let mut cluster = sample();
    cluster.catalogue.model = None;
    cluster.settle();
    let status = cluster.status();
    assert_eq!((status.phase, status.reason.as_deref()), (Some(Phase::Pending), Some("ModelNotFound")));
    assert!(status.message.unwrap().contains("did you mean demo/tiny-llama?") || cluster.run.spec.model == "demo/tiny-llama");
    assert!(cluster.created.is_empty());
    cluster.catalogue.model = Some(("tiny-llama".into(), crate::api::FinetuneModelSpec::sample()));
    cluster.settle();
    assert_eq!(cluster.current().map(|(stage, _)| stage), Some(Stage::Preflight));
}

#[test]
fn a_snapshot_that_was_made_before_an_edit_is_replaced() {
    let mut cluster = sample();
    cluster.step(Writes::ClusterOnly);
    cluster.catalogue.runtime.as_mut().unwrap().1.image = "newer".into();
    cluster.settle();
    assert_eq!(cluster.snapshot.as_ref().unwrap().runtime.image, "newer");
    assert_eq!(cluster.status().resolved.unwrap().image, "newer");
}

#[test]
fn a_refused_credential_ends_the_run_before_any_training() {
    let mut cluster = running(sample(), Stage::Preflight);
    let refusal = cluster.refusal("SaveFolder", "CredentialError", "AccessDenied");
    cluster.end(30, &refusal);
    cluster.settle();
    let failure = cluster.status().failure.unwrap();
    assert_eq!(cluster.phase(), Phase::Failed);
    assert_eq!((failure.class, failure.reason.as_str(), failure.exit_code), (FailureClass::CredentialError, "AccessDenied", Some(30)));
    assert_eq!(cluster.event_types(), ["CREATED", "CHECK_FAILED", "FAILED"]);
    assert_eq!(cluster.created.len(), 1);
}

#[test]
fn a_missing_secret_is_waited_for_with_a_stored_backoff() {
    let mut cluster = running(sample(), Stage::Preflight);
    let refusal = cluster.refusal("Secrets", "CredentialError", "SecretMissing");
    cluster.end(31, &refusal);
    cluster.settle();
    assert_eq!((cluster.phase(), cluster.status().reason.as_deref()), (Phase::Pending, Some("SecretMissing")));
    assert_eq!(cluster.created.len(), 1);
    cluster.wait(9);
    cluster.settle();
    assert_eq!(cluster.created.len(), 1, "the next preflight came before its time");
    cluster.wait(2);
    cluster.settle();
    assert_eq!(cluster.created.len(), 2);
    assert_eq!(cluster.event_types(), ["CREATED"]);
}

#[test]
fn a_preflight_that_says_nothing_believable_never_passes() {
    for message in ["", "{}", "not json", &"x".repeat(5000)] {
        let mut cluster = running(sample(), Stage::Preflight);
        cluster.end(0, message);
        cluster.settle();
        assert_eq!(cluster.phase(), Phase::Pending);
        for _ in 0..10 {
            cluster.wait(700);
            cluster.settle();
            cluster.end(0, message);
            cluster.settle();
        }
        assert_eq!(cluster.phase(), Phase::Failed);
        assert!(cluster.created.keys().all(|name| !name.contains("-a")), "{:?}", cluster.created);
    }
}

#[test]
fn data_outside_the_save_folder_are_not_believed() {
    let mut cluster = running(sample(), Stage::Preflight);
    let verdict = cluster.verdict().replace("s3://out/team-a/mds/k", "s3://stranger/mds/k");
    cluster.end(0, &verdict);
    cluster.settle();
    assert_eq!((cluster.phase(), cluster.status().data), (Phase::Pending, None));
}

#[test]
fn suspending_in_mid_training_stops_and_resuming_goes_on_as_a_new_attempt() {
    let mut cluster = running(sample(), Stage::Train);
    cluster.suspend(true);
    cluster.settle();
    assert_eq!((cluster.phase(), cluster.open_jobs()), (Phase::Stopped, 0));
    assert_eq!(cluster.event_types().last(), Some(&"CANCELED"));
    cluster.wait(3600);
    cluster.settle();
    assert_eq!((cluster.phase(), cluster.open_jobs()), (Phase::Stopped, 0));
    cluster.suspend(false);
    let mut cluster = running(cluster, Stage::Train);
    assert_eq!(cluster.status().attempt, Some(1));
    cluster.end_well();
    cluster.settle();
    assert_eq!(cluster.phase(), Phase::Completed);
    assert_eq!(cluster.status().attempts.iter().map(|a| a.reason.clone().unwrap()).collect::<Vec<_>>(), ["Suspended", "Completed"]);
}

#[test]
fn a_run_that_is_suspended_from_the_start_makes_no_job() {
    let mut cluster = sample();
    cluster.suspend(true);
    cluster.settle();
    assert_eq!((cluster.phase(), cluster.created.len()), (Phase::Stopped, 0));
}

#[test]
fn a_preemption_is_tried_again_at_once_and_a_users_mistake_never() {
    let mut cluster = running(sample(), Stage::Train);
    cluster.end(60, "");
    let mut cluster = running(cluster, Stage::Train);
    assert_eq!((cluster.status().attempt, cluster.status().retries.preemptions), (Some(1), 1));
    assert!(cluster.event_types().contains(&"REQUEUED"));
    cluster.end(11, r#"{"runUid": "uid-1", "exception": "ValueError: no", "logTail": "tail"}"#);
    cluster.settle();
    let failure = cluster.status().failure.unwrap();
    assert_eq!((cluster.phase(), failure.class, failure.exception.as_deref()), (Phase::Failed, FailureClass::UserError, Some("ValueError: no")));
}

#[test]
fn an_infrastructure_failure_waits_and_has_a_budget() {
    let mut cluster = running(sample(), Stage::Train);
    for failures in 1..=3 {
        cluster.end(70, "");
        cluster.settle();
        assert_eq!((cluster.phase(), cluster.status().retries.failures), (Phase::Pending, failures));
        cluster.wait(700);
        cluster = running(cluster, Stage::Train);
    }
    cluster.end(70, "");
    cluster.settle();
    assert_eq!(cluster.phase(), Phase::Failed);
}

#[test]
fn a_job_that_somebody_deletes_becomes_a_new_attempt_from_the_checkpoint() {
    let mut cluster = running(sample(), Stage::Train);
    cluster.lose_job();
    let cluster = running(cluster, Stage::Train);
    assert_eq!(cluster.status().attempt, Some(1));
    assert_eq!(cluster.status().attempts[0].reason.as_deref(), Some("JobDeleted"));
}

#[test]
fn an_old_pod_that_lives_on_holds_the_next_attempt_back() {
    let mut cluster = running(sample(), Stage::Train);
    let mut seen = cluster.observe();
    seen.job = crate::controller::facts::JobSeen::Absent;
    let plan = super::decide(&seen);
    assert_eq!(plan.change, Change::Keep);
    assert_eq!(plan.status.attempt, Some(0));
    assert!(plan.status.current_job.is_some());
    cluster.settle();
}

#[test]
fn a_strangers_job_under_the_name_is_left_alone() {
    let mut cluster = running(sample(), Stage::Preflight);
    let mut seen = cluster.observe();
    seen.job = crate::controller::facts::JobSeen::Foreign;
    let plan = super::decide(&seen);
    assert_eq!((plan.change, plan.status.reason.as_deref()), (Change::Keep, Some("NameConflict")));
    cluster.settle();
}

#[test]
fn a_finished_run_only_follows_its_generation() {
    let mut cluster = running(sample(), Stage::Train);
    cluster.end_well();
    cluster.settle();
    let before = cluster.status();
    cluster.suspend(true);
    cluster.jobs.clear();
    let plan = cluster.step(Writes::All);
    assert_eq!((plan.change, plan.next), (Change::Keep, None));
    assert_eq!(cluster.phase(), Phase::Completed);
    assert_eq!((cluster.status().observed_generation, cluster.status().events), (Some(2), before.events));
}

#[test]
fn an_export_outside_the_runs_folder_is_not_believed() {
    let mut cluster = running(sample(), Stage::Train);
    cluster.end(0, r#"{"runUid": "uid-1", "hfCheckpoint": "s3://out/team-a/other/hf_checkpoints/x"}"#);
    cluster.settle();
    assert_eq!((cluster.phase(), cluster.status().export), (Phase::Pending, None));
}

#[test]
fn the_time_limit_stops_the_run_with_its_checkpoint_kept() {
    let mut run = FinetuneRun::sample();
    run.spec.scheduling.max_duration_hours = Some(1.0);
    let mut cluster = running(Cluster::new(run), Stage::Train);
    cluster.wait(3601);
    cluster.settle();
    assert_eq!((cluster.phase(), cluster.status().reason.as_deref(), cluster.open_jobs()), (Phase::Stopped, Some("MaxDuration"), 0));
    assert_eq!(cluster.event_types().last(), Some(&"STOPPED"));
}

#[test]
fn what_a_report_tells_is_written_once_although_posts_repeat_it() {
    use crate::report::{store, wire};
    let mut cluster = running(sample(), Stage::Train);
    let post = br#"{"attempt": 0, "start": "s", "sequence": 1, "waitingFor": null,
        "progress": {"step": 3, "totalSteps": 10, "loss": 1.5, "estimatedRemainingSeconds": 40},
        "events": [{"type": "MODEL_INITIALIZED", "time": "2026-01-01T00:00:01.25Z"}, {"type": "TRAIN_STARTED", "time": "2026-01-01T00:00:02.5Z"},
                   {"type": "CHECKPOINT_SAVED", "time": "2026-01-01T00:00:03.75Z"}],
        "checkpoints": [{"step": 2, "epoch": 0, "time": "2026-01-01T00:00:03.75Z", "uri": "s3://out/team-a/sample/checkpoints/ep0-ba2-rank0.pt", "sizeBytes": 1, "kind": "composer"}]}"#;
    cluster.wait(10);
    let report = wire::own(post, "s3://out/team-a/sample", cluster.now).unwrap();
    let observe = |cluster: &Cluster| {
        let mut seen = cluster.observe();
        let at = "2026-01-01T00:00:10.5Z".parse().unwrap();
        seen.report = Some(store::Received { report: report.clone(), at, moved: at });
        seen
    };
    let first = super::decide(&observe(&cluster)).status;
    let types: Vec<_> = first.events.iter().rev().take(3).map(|event| event.type_.as_str()).collect();
    assert_eq!(types, ["CHECKPOINT_SAVED", "TRAIN_STARTED", "MODEL_INITIALIZED"]);
    assert_eq!((first.phase, first.checkpoints.len(), first.progress.as_ref().and_then(|p| p.percent)), (Some(Phase::Running), 1, Some(30)));
    cluster.run.status = Some(first.clone());
    cluster.wait(1);
    assert_eq!(super::decide(&observe(&cluster)).status, first);
}

#[test]
fn a_container_that_never_starts_is_given_up_with_its_reason_and_costs_a_retry() {
    let mut cluster = running(sample(), Stage::Train);
    let waiting = Container::Waiting("ImagePullBackOff".into(), "no such image".into());
    let name = cluster.current().unwrap().1;
    cluster.jobs.get_mut(&name).unwrap().pod.container = waiting;
    cluster.wait(14 * 60);
    cluster.settle();
    assert_eq!((cluster.phase(), cluster.status().reason.as_deref()), (Phase::Starting, Some("FailedImagePull")));
    assert_eq!(cluster.open_jobs(), 1);
    cluster.wait(60);
    cluster.settle();
    let status = cluster.status();
    let failure = status.failure.unwrap();
    assert_eq!((failure.class, failure.reason.as_str(), failure.attempt), (FailureClass::Infrastructure, "FailedImagePull", Some(0)));
    assert_eq!(failure.message, format!("pod {name}-pod did not start within 15 minutes: ImagePullBackOff: no such image"));
    assert_eq!((status.retries.failures, cluster.open_jobs()), (1, 0));
    assert_eq!(status.attempts[0].reason.as_deref(), Some("FailedImagePull"));
    cluster.wait(11);
    assert_eq!(running(cluster, Stage::Train).status().attempt, Some(1));
}

#[test]
fn a_preflight_that_never_starts_is_given_up_too_and_not_for_ever_tried() {
    let mut cluster = running(sample(), Stage::Preflight);
    for _ in 0..8 {
        if let Some((_, name)) = cluster.current() {
            cluster.jobs.get_mut(&name).unwrap().pod.container = Container::Unknown;
        }
        cluster.wait(2 * 3600);
        cluster.settle();
        cluster.wait(700);
        cluster.settle();
    }
    assert_eq!((cluster.phase(), cluster.status().reason.as_deref()), (Phase::Failed, Some("NotStarted")));
    assert_eq!(cluster.open_jobs(), 0);
}

#[test]
fn a_trainer_that_reports_and_does_not_move_for_an_hour_is_stalled() {
    use crate::report::{store, wire};
    let mut cluster = running(sample(), Stage::Train);
    cluster.wait(3700);
    let post = br#"{"attempt": 0, "start": "s", "sequence": 9, "progress": {"step": 3}, "events": [], "checkpoints": []}"#;
    let report = wire::own(post, "s3://out/team-a/sample", cluster.now).unwrap();
    let moved = |minutes: i64| {
        let mut seen = cluster.observe();
        let moved = cluster.now - jiff::SignedDuration::from_mins(minutes);
        seen.report = Some(store::Received { report: report.clone(), at: cluster.now, moved });
        super::decide(&seen).status.current_job.unwrap().given_up
    };
    assert_eq!(moved(59), None);
    let failure = moved(60).unwrap();
    assert_eq!((failure.class, failure.reason.as_str()), (FailureClass::Stalled, "Stalled"));
    assert_eq!(failure.message, "the trainer reports, but has been at step 3 for 60 minutes");
}

#[test]
fn a_pod_of_a_job_that_was_never_seen_holds_the_next_one_back() {
    let mut cluster = running(sample(), Stage::Train);
    let mut seen = cluster.observe();
    seen.job = crate::controller::facts::JobSeen::Absent;
    seen.run.status.as_mut().unwrap().current_job.as_mut().unwrap().uid = None;
    let plan = super::decide(&seen);
    assert_eq!((plan.change, plan.next), (Change::Keep, Some(std::time::Duration::from_secs(5))));
    assert_eq!(plan.status.attempts.len(), 1);
    cluster.settle();
}

#[test]
fn what_the_data_report_tells_stands_in_the_status() {
    let mut cluster = running(sample(), Stage::Preflight);
    let mut verdict: serde_json::Value = serde_json::from_str(&cluster.verdict()).unwrap();
    verdict["data"]["train"]["duplicates"] = 7.into();
    verdict["data"]["train"]["advice"] = "a longer context".into();
    cluster.end(0, &verdict.to_string());
    cluster.settle();
    let data = cluster.status().data.unwrap();
    let train = data.train.unwrap();
    assert_eq!((train.duplicates, train.also_in_train, train.advice.as_deref()), (Some(7), None, Some("a longer context")));
    assert_eq!((data.estimated_steps, data.estimated_gpu_hours), (Some(10), None), "on a CPU there are no GPU-hours");
    let told = cluster.status().conditions.into_iter().find(|condition| condition.type_ == "DataReady").unwrap().message;
    assert_eq!(told, "80 rows, 900 tokens; 7 the same as an earlier row; a longer context");
}

#[test]
fn a_table_is_copied_once_its_checks_passed_and_only_then_are_its_rows_judged() {
    let mut cluster = running(Cluster::on_a_table(), Stage::Preflight);
    assert!(cluster.status().current_job.unwrap().checks_only);
    let mut cluster = {
        cluster.end_well();
        running(cluster, Stage::Convert)
    };
    assert_eq!((cluster.phase(), cluster.status().reason.as_deref()), (Phase::Pending, Some("Converting")));
    cluster.end(0, "");
    let mut cluster = running(cluster, Stage::Preflight);
    assert!(cluster.status().tables_copied && !cluster.status().current_job.unwrap().checks_only);
    cluster.end_well();
    let mut cluster = running(cluster, Stage::Train);
    assert_eq!(cluster.status().data.unwrap().train.unwrap().source, "main.raw.rows");
    cluster.end(60, "");
    let mut cluster = running(cluster, Stage::Train);
    cluster.end_well();
    cluster.settle();
    assert_eq!(cluster.phase(), Phase::Completed);
    let stages: String = cluster.created.keys().filter_map(|name| name.rsplit('-').next()?.chars().next()).collect();
    assert_eq!(stages, "aacppp", "one conversion for two attempts");
    assert_eq!(cluster.event_types().iter().filter(|type_| **type_ == "CHECK_PASSED").count(), 1);
}

#[test]
fn a_conversion_that_a_service_fails_is_tried_again_and_one_that_the_user_must_mend_is_not() {
    let mut cluster = running(Cluster::on_a_table(), Stage::Preflight);
    cluster.end_well();
    let mut cluster = running(cluster, Stage::Convert);
    cluster.end(70, "");
    cluster.settle();
    assert_eq!((cluster.phase(), cluster.status().retries.conversions), (Phase::Pending, 1));
    cluster.wait(11);
    let mut cluster = running(cluster, Stage::Convert);
    cluster.end(10, r#"{"runUid": "uid-1", "exception": "DeltaTableNotFoundError: main.raw.rows"}"#);
    cluster.settle();
    let failure = cluster.status().failure.unwrap();
    assert_eq!((cluster.phase(), failure.class, failure.stage), (Phase::Failed, FailureClass::UserError, Stage::Convert));
    assert_eq!(cluster.event_types(), ["CREATED", "CHECK_FAILED", "FAILED_EXCEPTION", "FAILED"]);
}

#[test]
fn only_the_trainer_of_several_nodes_gets_a_way_for_them_to_find_each_other() {
    let services = |nodes: i32| {
        let mut run = FinetuneRun::sample();
        run.spec.compute = serde_json::from_value(serde_json::json!({"nodes": nodes, "gpusPerNode": 2})).unwrap();
        let mut cluster = Cluster::new(run);
        let mut found = Vec::new();
        for _ in 0..20 {
            if let Change::CreateStage { stage, service, .. } = cluster.step(Writes::All).change {
                found.push((stage.job.metadata.name.unwrap().rsplit('-').next().unwrap().to_owned(), service.is_some()));
                cluster.end_well();
            }
        }
        found
    };
    let stages = |train: bool| vec![("p0".to_owned(), false), ("a0".to_owned(), train)];
    assert_eq!((services(1), services(2)), (stages(false), stages(true)));
}

#[test]
fn a_model_without_a_fast_tokenizer_gets_one_made_and_fails_only_if_that_does_not_help() {
    let refusal = |cluster: &Cluster| cluster.refusal("Model", "UserError", "TokenizerMissing");
    let mut cluster = running(sample(), Stage::Preflight);
    cluster.end(10, &refusal(&cluster));
    let mut cluster = running(cluster, Stage::Convert);
    let status = cluster.status();
    let made = status.tokenizer.clone().unwrap();
    assert_eq!((cluster.phase(), made.made, status.failure), (Phase::Pending, false, None));
    cluster.end(0, "");
    let mut cluster = running(cluster, Stage::Preflight);
    assert!(cluster.status().tokenizer.unwrap().made && !cluster.status().tables_copied);
    cluster.end(10, &refusal(&cluster));
    cluster.settle();
    assert_eq!((cluster.phase(), cluster.status().failure.unwrap().reason.as_str()), (Phase::Failed, "TokenizerMissing"));
}
