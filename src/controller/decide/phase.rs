//! The phase: one function from the conditions and the wanted Job; pure.

use super::draft::{Draft, Stop};
use super::patience::problem;
use super::progress::{Situation, situation};
use crate::api::condition::{self, ConditionType};
use crate::api::status::{Phase, Stage};
use crate::controller::facts::{JobSeen, Outcome};

pub(super) struct Summary {
    pub(super) phase: Phase,
    pub(super) reason: String,
    pub(super) message: String,
}

fn summary(phase: Phase, reason: &str, message: impl Into<String>) -> Summary {
    Summary { phase, reason: reason.to_owned(), message: message.into() }
}

pub(super) fn summarize(draft: &Draft<'_>) -> Summary {
    let status = &draft.status;
    let is_true = |type_| condition::is_true(&status.conditions, type_);
    if status.completed_at.is_some() {
        return match &status.failure {
            _ if is_true(ConditionType::Trained) && is_true(ConditionType::Registered) => completed(draft),
            Some(failure) => summary(Phase::Failed, &failure.reason, failure.message.clone()),
            None => summary(Phase::Failed, "Failed", "the run failed"),
        };
    }
    if let Some((reason, message)) = &draft.block {
        return summary(Phase::Pending, reason, message.clone());
    }
    if status.spec_hash.is_none() {
        return summary(Phase::Pending, "Accepting", "model and runtime are being resolved");
    }
    match (draft.stop_wanted(), &status.current_job) {
        (Some(_), Some(job)) => {
            return summary(Phase::Terminating, "Stopping", format!("Job {} is being stopped; its checkpoint is saved first", job.name));
        }
        (Some(Stop::Suspended), None) => {
            return summary(Phase::Stopped, "Suspended", "stopped because spec.suspend is true; set it to false to go on from the newest checkpoint");
        }
        (Some(Stop::MaxDuration), None) => {
            return summary(
                Phase::Stopped,
                "MaxDuration",
                "stopped because spec.scheduling.maxDurationHours has passed; raise it to go on from the newest checkpoint",
            );
        }
        (None, _) => {}
    }
    let Some(job) = &status.current_job else {
        let why = status.failure.as_ref().filter(|_| status.next_attempt_at.is_some());
        return match why {
            Some(failure) => {
                let when =
                    status.next_attempt_at.as_ref().map(|at| format!("; looked at again at {}", at.0.strftime("%H:%M:%SZ"))).unwrap_or_default();
                summary(Phase::Pending, &failure.reason, format!("{}{when}", failure.message))
            }
            None => summary(Phase::Pending, "Pending", "the next stage is about to begin"),
        };
    };
    match job.stage {
        Stage::Preflight if job.checks_only && status.attempt.is_some() => {
            summary(Phase::Pending, "Checking", "credentials are checked again before the next attempt")
        }
        Stage::Preflight => match unready(draft) {
            Some(why) => summary(Phase::Pending, "PreflightStarting", why),
            None => summary(Phase::Pending, "Checking", "credentials and data are checked; no GPU is taken yet"),
        },
        Stage::Convert => match unready(draft) {
            Some(why) => summary(Phase::Pending, "ConvertStarting", why),
            None => summary(Phase::Pending, "Converting", "tables or tokenizer are converted to what the preflight reads; no GPU is taken yet"),
        },
        Stage::Train => match &draft.seen.job {
            JobSeen::Own(own) if matches!(own.outcome, Outcome::Open) && own.deleting => {
                summary(Phase::Terminating, "Stopping", "the training pod is being stopped")
            }
            JobSeen::Own(own) if own.uid == job.uid.clone().unwrap_or_default() => match situation(draft) {
                Situation::Queued(reason, message) => summary(Phase::Queued, reason, message),
                Situation::Starting(reason, what) => summary(Phase::Starting, reason, format!("waiting for {what}")),
                Situation::Running => running(draft),
            },
            _ => summary(Phase::Queued, "WaitingForPod", "the training Job is being made"),
        },
        Stage::Register => summary(Phase::Running, "Registering", "training is done; the model is being registered"),
    }
}

fn running(draft: &Draft<'_>) -> Summary {
    let status = &draft.status;
    let attempt = status.attempt;
    let exporting = status.events.iter().any(|e| e.type_ == crate::api::status::EventType::TrainFinished && e.attempt == attempt);
    if exporting {
        return summary(Phase::Running, "Uploading", "training is done; checkpoint and export are being uploaded");
    }
    summary(Phase::Running, "Training", "training")
}

fn completed(draft: &Draft<'_>) -> Summary {
    let message = match (&draft.status.registered_model, &draft.status.export) {
        (Some(model), _) => format!("the model is registered as {}", model.uri),
        (None, Some(export)) => format!("the model is at {}", export.uri),
        (None, None) => "the run is complete".to_owned(),
    };
    summary(Phase::Completed, "Completed", message)
}

/// Why the pod of a stage without GPUs does not run yet, if there is something to say.
fn unready(draft: &Draft<'_>) -> Option<String> {
    let pod = draft.seen.pods.first()?;
    if let Some(why) = &pod.unschedulable {
        return Some(format!("no node fits pod {}: {why}", pod.name));
    }
    problem(pod).map(|(_, why)| format!("pod {} waits: {why}", pod.name))
}
