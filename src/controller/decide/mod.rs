//! The decide step: from what was observed to one plan. Pure and total: no clock, no I/O, no error; a wrong spec, a missing
//! Secret or a failed Job is a result that stands in the status.

mod accept;
mod convert;
mod draft;
mod patience;
mod phase;
mod preflight;
mod progress;
mod register;
mod size;
mod train;

#[cfg(test)]
mod convergence;
#[cfg(test)]
mod scenario;
#[cfg(test)]
mod tests;

use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Service};

use self::draft::Draft;
use super::build::{self, Subject};
use super::facts::{JobFacts, JobSeen, Outcome};
use super::observed::{Observed, ServiceAccountSeen, SnapshotSeen};
use super::snapshot::Snapshot;
use crate::api::condition::{self, ConditionType};
use crate::api::names;
use crate::api::status::{CurrentJob, FinetuneRunStatus, Phase, Stage};

/// One write to the cluster besides the status. Each is safe to repeat, and its loss is noticed by the next decision.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Nothing.
    Keep,
    /// Make the snapshot `ConfigMap`.
    CreateSnapshot(Box<ConfigMap>),
    /// Remove a snapshot that was made before the run was accepted and no longer fits.
    DeleteSnapshot(String),
    /// Make a stage's `ConfigMap`, then its Job.
    CreateStage {
        /// The objects.
        stage: Box<build::Stage>,
        /// The CA of the report endpoint, for a trainer; applied, since it may be there already.
        ca: Option<Box<ConfigMap>>,
        /// How the nodes of a trainer of several nodes find each other.
        service: Option<Box<Service>>,
    },
    /// Delete the Job of this name and uid, and its pods with their grace.
    DeleteJob {
        /// Name.
        name: String,
        /// Only if it still has this uid.
        uid: String,
    },
}

/// What to do now, and when to look again if nothing happens.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The one write, made before the status.
    pub change: Change,
    /// The whole status.
    pub status: FinetuneRunStatus,
    /// When to look again; `None`: when something happens.
    pub next: Option<Duration>,
}

/// Looks again without a trigger, in case an event was missed.
pub const RESYNC: Duration = Duration::from_secs(300);

/// Decides one step.
#[must_use]
pub fn decide(seen: &Observed) -> Plan {
    let old = seen.run.status.clone().unwrap_or_default();
    if seen.run.metadata.deletion_timestamp.is_some() {
        return Plan { change: Change::Keep, status: old, next: None };
    }
    let mut draft = Draft::new(seen, old);
    if draft.status.phase.is_some_and(Phase::is_sink) {
        return draft.finish_sink();
    }
    let change = step(&mut draft);
    draft.finish(change)
}

fn step(draft: &mut Draft<'_>) -> Change {
    let seen = draft.seen;
    if draft.status.spec_hash.is_none() {
        return accept::accept(draft);
    }
    let SnapshotSeen::Own(snapshot) = &seen.snapshot else {
        return accept::restore(draft);
    };
    let Some(current) = draft.status.current_job.clone() else {
        return choose(draft);
    };
    match &seen.job {
        JobSeen::Foreign => {
            draft.blocked("NameConflict", format!("Job {} exists and is not of this run: delete or rename it", current.name));
            Change::Keep
        }
        JobSeen::Absent if current.uid.is_some() => gone(draft, &current),
        JobSeen::Absent if alive(draft) => {
            draft.look_again(5);
            Change::Keep
        }
        JobSeen::Absent if draft.stop_wanted().is_some() => {
            draft.close(&current, "Stopped", None);
            choose(draft)
        }
        JobSeen::Absent => create(draft, &current, snapshot),
        JobSeen::Own(job) => own(draft, &current, job),
    }
}

/// The wanted Job exists and is ours.
fn own(draft: &mut Draft<'_>, current: &CurrentJob, job: &JobFacts) -> Change {
    if current.uid.as_ref().is_some_and(|uid| *uid != job.uid) {
        return gone(draft, current);
    }
    if let Some(wanted) = &mut draft.status.current_job {
        wanted.uid = Some(job.uid.clone());
    }
    if current.stage == Stage::Train {
        progress::update(draft, current);
    }
    match &job.outcome {
        Outcome::Open => {
            if job.deleting {
                draft.look_again(10);
                return Change::Keep;
            }
            if draft.stop_wanted().is_some() || current.given_up.is_some() {
                return Change::DeleteJob { name: current.name.clone(), uid: job.uid.clone() };
            }
            if let (Some(failure), Some(wanted)) = (patience::overdue(draft, current), &mut draft.status.current_job) {
                wanted.given_up = Some(Box::new(failure));
                return Change::Keep;
            }
            draft.look_again(if current.stage == Stage::Train { 30 } else { 60 });
            Change::Keep
        }
        outcome => {
            match current.stage {
                Stage::Preflight => preflight::ended(draft, current, outcome),
                Stage::Convert => convert::ended(draft, current, outcome),
                Stage::Train => train::ended(draft, current, outcome),
                Stage::Register => register::ended(draft, current, outcome),
            }
            if draft.status.completed_at.is_some() { Change::Keep } else { choose(draft) }
        }
    }
}

/// The Job was seen before and is gone: stopped or given up by us, or deleted by somebody. No pod of it may live on beside a new attempt.
fn gone(draft: &mut Draft<'_>, current: &CurrentJob) -> Change {
    if current.stage == Stage::Train {
        progress::update(draft, current);
    }
    if alive(draft) {
        draft.look_again(5);
        return Change::Keep;
    }
    if let Some(stop) = draft.stop_wanted() {
        draft.close(current, stop.reason(), None);
    } else {
        match current.stage {
            Stage::Train => train::lost(draft, current),
            Stage::Preflight => preflight::lost(draft, current),
            Stage::Convert => convert::lost(draft, current),
            Stage::Register => register::lost(draft, current),
        }
    }
    if draft.status.completed_at.is_some() { Change::Keep } else { choose(draft) }
}

/// Whether a pod of the wanted Job's stage and number lives: also one whose Job was deleted before it was seen.
fn alive(draft: &Draft<'_>) -> bool {
    draft.seen.pods.iter().any(|pod| !pod.ended)
}

/// Nothing is running: writes the intent for what comes next, or ends the run.
fn choose(draft: &mut Draft<'_>) -> Change {
    if draft.stop_wanted().is_some() {
        draft.status.next_attempt_at = None;
        return Change::Keep;
    }
    if let Some(at) = &draft.status.next_attempt_at {
        let wait = at.0.duration_since(draft.seen.now);
        if wait.is_positive() {
            draft.look_again(u64::try_from(wait.as_secs()).unwrap_or(0) + 1);
            return Change::Keep;
        }
        draft.status.next_attempt_at = None;
    }
    let is_true = |type_| condition::is_true(&draft.status.conditions, type_);
    let stage = if is_true(ConditionType::Trained) {
        if draft.status.resolved.as_ref().is_none_or(|r| r.register_to.is_none()) || is_true(ConditionType::Registered) {
            draft.complete();
            return Change::Keep;
        }
        Stage::Register
    } else if is_true(ConditionType::PreflightPassed) && is_true(ConditionType::DataReady) {
        Stage::Train
    } else if convert::tokenizer_is_due(draft) || is_true(ConditionType::PreflightPassed) && convert::tables_are_due(draft) {
        Stage::Convert
    } else {
        Stage::Preflight
    };
    let checks_only = stage == Stage::Preflight && (is_true(ConditionType::DataReady) || convert::tables_are_due(draft));
    draft.intend(stage, checks_only);
    Change::Keep
}

/// The intent stands in the status and the Job was never seen: make it.
fn create(draft: &mut Draft<'_>, current: &CurrentJob, snapshot: &Snapshot) -> Change {
    let seen = draft.seen;
    let account = &seen.run.spec.service_account_name;
    match seen.service_account {
        ServiceAccountSeen::Absent => {
            draft.blocked(
                "ServiceAccountMissing",
                format!(
                    "spec.serviceAccountName: ServiceAccount {account} does not exist in this namespace: kubectl create serviceaccount {account}"
                ),
            );
            return Change::Keep;
        }
        ServiceAccountSeen::Present { allowed: false } => {
            draft.blocked(
                "ServiceAccountNotAllowed",
                format!(
                    "spec.serviceAccountName: ServiceAccount {account} is not open to runs: label it {}=true or leave the field out",
                    crate::api::SERVICE_ACCOUNT_OPT_IN
                ),
            );
            return Change::Keep;
        }
        ServiceAccountSeen::Present { allowed: true } | ServiceAccountSeen::Unread => {}
    }
    let (Some(resolved), Some(hash)) = (&draft.status.resolved, &draft.status.spec_hash) else { return Change::Keep };
    let metadata = &seen.run.metadata;
    let (name, namespace, uid) = (metadata.name.as_deref(), metadata.namespace.as_deref(), metadata.uid.as_deref());
    let subject = Subject {
        run: &seen.run,
        name: name.unwrap_or_default(),
        namespace: namespace.unwrap_or_default(),
        uid: uid.unwrap_or_default(),
        spec_hash: hash,
        resolved,
        snapshot,
        settings: &seen.settings,
    };
    let stage = match current.stage {
        Stage::Preflight => build::preflight(&subject, current.number, !current.checks_only, convert::made(&draft.status)),
        Stage::Convert => build::convert(&subject, current.number, convert::to_make(&draft.status)),
        Stage::Train => train::stage(&subject, &draft.status, current.number),
        Stage::Register => match &draft.status.export {
            Some(export) => build::register(&subject, current.number, export, draft.mlflow()),
            None => return Change::Keep,
        },
    };
    let ca = (current.stage == Stage::Train).then(|| Box::new(build::ca(&subject, &seen.ca_pem)));
    let service = build::service(&subject).filter(|_| current.stage == Stage::Train).map(Box::new);
    let change = Change::CreateStage { stage: Box::new(stage), ca, service };
    draft.look_again(30);
    change
}

/// The name of the wanted Job, as `names::job` makes it.
fn job_name(seen: &Observed, stage: Stage, number: i64) -> String {
    let metadata = &seen.run.metadata;
    names::job(metadata.name.as_deref().unwrap_or_default(), metadata.uid.as_deref().unwrap_or_default(), stage, number)
}
