//! Training: the stage's objects, and what its end means; pure.

use super::draft::{Draft, failure};
use crate::api::condition::ConditionType;
use crate::api::status::{Checkpoint, CurrentJob, EventType, Export, Failure, FailureClass, FinetuneRunStatus, Stage};
use crate::controller::build::{self, Subject};
use crate::controller::classify::{self, Farewell, cut};
use crate::controller::facts::Outcome;
use crate::engine;

/// The `ConfigMap` and the Job of an attempt.
pub(super) fn stage(subject: &Subject<'_>, status: &FinetuneRunStatus, attempt: i64) -> build::Stage {
    let data = status.data.clone().unwrap_or_default();
    let tracking = status.tracking.as_ref().and_then(|t| t.mlflow.as_ref());
    let config = engine::llm_foundry::compile(&engine::llm_foundry::Training {
        run: subject.name,
        uid: subject.uid,
        spec: &subject.run.spec,
        model: &subject.snapshot.model,
        runtime: &subject.snapshot.runtime,
        resolved: subject.resolved,
        data: &data,
    });
    let expected = newest(status).map(|checkpoint| checkpoint.uri.as_str());
    build::train(subject, attempt, &data, tracking, expected, &config)
}

/// The checkpoint that a next attempt starts from.
fn newest(status: &FinetuneRunStatus) -> Option<&Checkpoint> {
    status.checkpoints.iter().find(|checkpoint| checkpoint.newest)
}

pub(super) fn ended(draft: &mut Draft<'_>, current: &CurrentJob, outcome: &Outcome) {
    let uid = draft.seen.run.metadata.uid.as_deref().unwrap_or_default();
    let farewell = classify::farewell(&draft.seen.pods, uid);
    if let Some(farewell) = &farewell {
        take_checkpoint(draft, farewell);
    }
    if !matches!(outcome, Outcome::Complete(_)) {
        let failure = classify::failure(Stage::Train, current.number, outcome, &draft.seen.pods, uid);
        return failed(draft, current, failure);
    }
    let export = farewell.as_ref().and_then(|farewell| export(draft, farewell));
    match export {
        Some(export) => {
            if !has_event(draft, current.number, EventType::TrainFinished) {
                draft.event(EventType::TrainFinished, "training ended and its outputs are uploaded");
            }
            draft.set(ConditionType::Trained, Some(true), "Trained", &format!("the export is at {}", export.uri));
            draft.status.export = Some(export);
            if let Some(progress) = &mut draft.status.progress {
                progress.percent = Some(100);
                progress.summary = Some("100%".to_owned());
                let done = farewell.as_ref().and_then(|f| f.step).filter(|step| *step >= 0);
                progress.step = done.or(progress.step);
            }
            draft.close(current, "Completed", Some(0));
        }
        // The trainer finds its completion marker and repeats its message, which costs seconds.
        None => failed(
            draft,
            current,
            failure(FailureClass::Infrastructure, Stage::Train, "NoVerdict", "training ended without saying where its export is"),
        ),
    }
}

/// The Job was given up by us, or deleted by somebody before its end was seen.
pub(super) fn lost(draft: &mut Draft<'_>, current: &CurrentJob) {
    let failure = current.given_up.as_deref().cloned().unwrap_or_else(|| {
        let message = format!("Job {} was deleted from outside before it ended", current.name);
        failure(FailureClass::Preempted, Stage::Train, "JobDeleted", &message)
    });
    failed(draft, current, failure);
}

fn has_event(draft: &Draft<'_>, attempt: i64, type_: EventType) -> bool {
    draft.status.events.iter().any(|event| event.type_ == type_ && event.attempt == Some(attempt))
}

/// One place decides who pays for a failure: the cluster's doing has a large budget and no wait, a failing service a small one
/// with waits, and the user's own none.
fn failed(draft: &mut Draft<'_>, current: &CurrentJob, failure: Failure) {
    let stop = draft.stop_wanted();
    let reason = stop.map_or_else(|| failure.reason.clone(), |stop| stop.reason().to_owned());
    let scheduling = &draft.seen.run.spec.scheduling;
    let (max_retries, max_preemptions) = (i64::from(scheduling.max_retries), i64::from(scheduling.max_preemptions));
    let retry = match failure.class {
        // Told to stop because the run is being stopped: neither a failure nor a retry.
        FailureClass::Preempted if stop.is_some() => return draft.close(current, &reason, failure.exit_code),
        FailureClass::Preempted | FailureClass::NodeLost => {
            draft.status.retries.preemptions += 1;
            draft.status.retries.preemptions <= max_preemptions
        }
        FailureClass::Infrastructure | FailureClass::Stalled => {
            draft.status.retries.failures += 1;
            let failures = draft.status.retries.failures;
            if failures <= max_retries {
                draft.back_off(failures);
            }
            failures <= max_retries
        }
        FailureClass::UserError | FailureClass::DataError | FailureClass::CredentialError | FailureClass::OutOfMemory | FailureClass::Diverged => {
            false
        }
    };
    if retry {
        draft.event(EventType::Requeued, &format!("{}; the run goes on from its newest checkpoint", failure.message));
        draft.close(current, &reason, failure.exit_code);
        draft.status.failure = Some(failure);
    } else {
        draft.set(ConditionType::Trained, Some(false), &failure.reason.clone(), &failure.message.clone());
        let exit_code = failure.exit_code;
        draft.fail(failure);
        draft.close(current, &reason, exit_code);
    }
}

fn outputs(draft: &Draft<'_>) -> String {
    let run = &draft.seen.run;
    format!("{}/{}/", run.spec.save_folder.trim_end_matches('/'), run.metadata.name.as_deref().unwrap_or_default())
}

/// The export that the trainer names, believed only below the run's own folder.
fn export(draft: &Draft<'_>, farewell: &Farewell) -> Option<Export> {
    let uri = farewell.hf_checkpoint.as_ref()?;
    let home = format!("{}hf_checkpoints", outputs(draft));
    (uri.starts_with(&home) && !uri.contains("..") && uri.len() <= 1200)
        .then(|| Export { uri: cut(uri, 1200), size_bytes: farewell.hf_checkpoint_bytes.filter(|n| *n >= 0) })
}

fn take_checkpoint(draft: &mut Draft<'_>, farewell: &Farewell) {
    let Some(saved) = &farewell.checkpoint else { return };
    let home = format!("{}checkpoints/", outputs(draft));
    if saved.step < 0 || !saved.uri.starts_with(&home) || saved.uri.contains("..") || saved.uri.len() > 1200 {
        return;
    }
    let time = draft.now();
    let checkpoint = Checkpoint {
        step: saved.step,
        time,
        uri: cut(&saved.uri, 1200),
        size_bytes: saved.size_bytes.filter(|n| *n >= 0),
        kind: "composer".to_owned(),
        newest: false,
    };
    super::progress::merge_checkpoints(draft, [checkpoint]);
}
