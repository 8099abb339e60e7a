//! The status of one decision while it is being written; pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::{Change, Plan, RESYNC, phase, size};
use crate::api::condition::{self, ConditionType, condition};
use crate::api::status::{Attempt, CurrentJob, EventType, Failure, FailureClass, FinetuneRunStatus, GpuHours, MlflowRun, Phase, RunEvent, Stage};
use crate::controller::classify::cut;
use crate::controller::facts::PodFacts;
use crate::controller::observed::Observed;

const MAX_EVENTS: usize = 64;
const MAX_ATTEMPTS: usize = 16;

/// Why a run shall not go on now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// `spec.suspend`.
    Suspended,
    /// `spec.scheduling.maxDurationHours` has passed.
    MaxDuration,
}

impl Stop {
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Suspended => "Suspended",
            Self::MaxDuration => "MaxDuration",
        }
    }
}

pub(super) struct Draft<'a> {
    pub(super) seen: &'a Observed,
    pub(super) status: FinetuneRunStatus,
    /// What keeps the run from going on: reason and message, for this decision only.
    pub(super) block: Option<(&'static str, String)>,
    old: FinetuneRunStatus,
    next: Duration,
}

impl<'a> Draft<'a> {
    pub(super) fn new(seen: &'a Observed, old: FinetuneRunStatus) -> Self {
        let mut draft = Self { seen, status: old.clone(), block: None, old, next: RESYNC };
        if draft.status.phase.is_none() {
            draft.event(EventType::Created, "the run was created");
        }
        draft
    }

    pub(super) fn now(&self) -> Time {
        Time(self.seen.now)
    }

    /// Shortens the time until the next look.
    pub(super) fn look_again(&mut self, seconds: u64) {
        self.next = self.next.min(Duration::from_secs(seconds));
    }

    /// The run cannot go on until somebody changes something outside its status.
    pub(super) fn blocked(&mut self, reason: &'static str, message: String) {
        self.block = Some((reason, message));
        self.look_again(15);
    }

    pub(super) fn event(&mut self, type_: EventType, message: &str) {
        let attempt = self.status.current_job.as_ref().filter(|job| job.stage == Stage::Train).map(|job| job.number);
        self.event_at(type_, message, self.now(), attempt);
    }

    pub(super) fn event_at(&mut self, type_: EventType, message: &str, time: Time, attempt: Option<i64>) {
        self.status.events.push(RunEvent { type_, time, message: cut(message, 500), attempt });
        let excess = self.status.events.len().saturating_sub(MAX_EVENTS);
        self.status.events.drain(..excess);
    }

    pub(super) fn set(&mut self, type_: ConditionType, status: Option<bool>, reason: &str, message: &str) {
        let next = condition(type_, status, reason, message, self.seen.run.metadata.generation, self.now());
        match self.status.conditions.iter_mut().find(|c| c.type_ == type_.as_str()) {
            Some(old) => *old = next,
            None => self.status.conditions.push(next),
        }
    }

    pub(super) fn mlflow(&self) -> Option<&MlflowRun> {
        self.status.tracking.as_ref()?.mlflow.as_ref()
    }

    /// Whether the run shall not go on now, and why.
    pub(super) fn stop_wanted(&self) -> Option<Stop> {
        if self.seen.run.spec.suspend {
            return Some(Stop::Suspended);
        }
        if condition::is_true(&self.status.conditions, ConditionType::Trained) {
            return None;
        }
        let started = self.status.started_at.as_ref()?.0;
        let hours = self.seen.run.spec.scheduling.max_duration_hours?;
        let limit = SignedDuration::try_from_secs_f64(hours * 3600.0).ok()?;
        (self.seen.now.duration_since(started) >= limit).then_some(Stop::MaxDuration)
    }

    /// Writes the intent: from the next decision on, the Job of this name is wanted.
    pub(super) fn intend(&mut self, stage: Stage, checks_only: bool) {
        let number = match stage {
            Stage::Preflight => {
                self.status.retries.preflights += 1;
                self.status.retries.preflights - 1
            }
            Stage::Convert => {
                self.status.retries.conversions += 1;
                self.status.retries.conversions - 1
            }
            Stage::Train => {
                let attempt = self.status.attempt.map_or(0, |attempt| attempt + 1);
                self.status.attempt = Some(attempt);
                attempt
            }
            Stage::Register => {
                self.status.retries.registrations += 1;
                self.status.retries.registrations - 1
            }
        };
        let name = super::job_name(self.seen, stage, number);
        if stage == Stage::Train {
            self.status.progress = None;
            let resumed_from_step = self.status.checkpoints.iter().find(|c| c.newest).map(|c| c.step);
            self.status.attempts.push(Attempt {
                number,
                job: name.clone(),
                nodes: Vec::new(),
                started_at: None,
                ended_at: None,
                reason: None,
                exit_code: None,
                gpu_hours: 0.0,
                resumed_from_step,
            });
            let excess = self.status.attempts.len().saturating_sub(MAX_ATTEMPTS);
            self.status.attempts.drain(..excess);
        }
        self.status.current_job = Some(CurrentJob { stage, number, name, uid: None, since: self.now(), checks_only, given_up: None });
    }

    /// The current Job has ended. Closes its attempt, settles the GPU-hours; a next attempt begins with checks of credentials.
    pub(super) fn close(&mut self, current: &CurrentJob, reason: &str, exit_code: Option<i32>) {
        self.status.current_job = None;
        if current.stage != Stage::Train {
            return;
        }
        let ended = self.seen.pods.iter().filter_map(PodFacts::ended_at).max().unwrap_or(self.seen.now);
        let gpus = self.status.resolved.as_ref().map_or(0, |r| r.nodes * r.gpus_per_node);
        let newest = self.status.checkpoints.iter().find(|c| c.newest).map(|c| c.time.0);
        if let Some(attempt) = self.status.attempts.iter_mut().find(|a| a.number == current.number) {
            attempt.ended_at = Some(Time(ended));
            attempt.reason = Some(cut(reason, 64));
            attempt.exit_code = exit_code;
            if let Some(started) = &attempt.started_at {
                attempt.gpu_hours = hours(started.0, ended, gpus);
                let kept_until = newest.map_or(started.0, |at| at.max(started.0));
                let lost = if reason == "Completed" { 0.0 } else { hours(kept_until, ended, gpus) };
                let total = self.status.gpu_hours.get_or_insert(GpuHours::default());
                total.used = round(total.used + attempt.gpu_hours);
                total.lost = round(total.lost + lost);
            }
        }
        if let Some(progress) = &mut self.status.progress {
            progress.eta = None;
            progress.waiting_for = None;
        }
        self.status.estimated_end_time = None;
        if reason != "Completed" {
            self.set(ConditionType::PreflightPassed, None, "CheckAgain", "credentials are checked again before the next attempt");
        }
    }

    /// Ends the run badly, for good.
    pub(super) fn fail(&mut self, failure: Failure) {
        self.status.current_job = None;
        self.status.next_attempt_at = None;
        self.status.completed_at = Some(self.now());
        if let Some(exception) = &failure.exception {
            let text = exception.clone();
            self.event(EventType::FailedException, &text);
        }
        self.status.failure = Some(failure);
    }

    /// Ends the run well.
    pub(super) fn complete(&mut self) {
        self.status.current_job = None;
        self.status.completed_at = Some(self.now());
    }

    /// Remembers when the next Job may be made: 10 s doubling with each failure, at most 10 min.
    pub(super) fn back_off(&mut self, failures: i64) {
        let exponent = u32::try_from(failures.clamp(1, 7) - 1).unwrap_or(0);
        let seconds = (10 * 2_i64.pow(exponent)).min(600);
        self.status.next_attempt_at = Some(Time(self.seen.now + SignedDuration::from_secs(seconds)));
        self.look_again(u64::try_from(seconds).unwrap_or(600));
    }

    pub(super) fn finish(mut self, change: Change) -> Plan {
        let summary = phase::summarize(&self);
        if self.old.phase != Some(summary.phase) {
            match summary.phase {
                Phase::Stopped if summary.reason == "MaxDuration" => self.event(EventType::Stopped, &summary.message),
                Phase::Stopped => self.event(EventType::Canceled, &summary.message),
                Phase::Completed => self.event(EventType::Completed, &summary.message),
                Phase::Failed => self.event(EventType::Failed, &summary.message),
                _ => {}
            }
        }
        let (ready, reconciling, stalled) = match summary.phase {
            Phase::Completed => (true, false, false),
            Phase::Failed => (false, false, true),
            Phase::Stopped => (false, false, false),
            _ => (false, self.block.is_none(), self.block.is_some()),
        };
        for (type_, status) in [(ConditionType::Ready, ready), (ConditionType::Reconciling, reconciling), (ConditionType::Stalled, stalled)] {
            self.set(type_, Some(status), &summary.reason, &summary.message);
        }
        self.status.phase = Some(summary.phase);
        self.status.reason = Some(cut(&summary.reason, 64));
        self.status.message = Some(cut(&summary.message, 1024));
        self.settle();
        self.status = as_stored(size::fitted(self.status));
        // A status that changed comes back as a trigger; a change to the cluster that made none must be looked at.
        let next = if change == Change::Keep { self.next } else { self.next.min(Duration::from_secs(5)) };
        let sink = self.status.phase.is_some_and(Phase::is_sink);
        Plan { change, next: (!sink).then_some(next), status: self.status }
    }

    /// A finished run only follows its generation, which tools compare with.
    pub(super) fn finish_sink(mut self) -> Plan {
        let generation = self.seen.run.metadata.generation;
        for condition in &mut self.status.conditions {
            condition.observed_generation = generation;
        }
        self.status.observed_generation = generation;
        Plan { change: Change::Keep, status: self.status, next: None }
    }

    /// Every condition is there, in order, with the transition time of its status.
    fn settle(&mut self) {
        let generation = self.seen.run.metadata.generation;
        let unknown = |type_| condition(type_, None, "Pending", "not decided yet", generation, Time(self.seen.now));
        let all: Vec<Condition> = ConditionType::ALL
            .iter()
            .map(|type_| {
                let known = self.status.conditions.iter().find(|c| c.type_ == type_.as_str()).cloned();
                let known = known.unwrap_or_else(|| unknown(*type_));
                Condition { observed_generation: generation, ..known }
            })
            .collect();
        self.status.conditions = condition::merge(&self.old.conditions, all);
        self.status.observed_generation = generation;
    }
}

/// The status as the API server gives it back: its times have whole seconds. An equal status must compare equal, or every
/// look at a run would write it.
fn as_stored(status: FinetuneRunStatus) -> FinetuneRunStatus {
    let stored = serde_json::to_value(&status).and_then(serde_json::from_value);
    stored.unwrap_or(status)
}

/// A failure that no Job stands behind.
pub(super) fn failure(class: FailureClass, stage: Stage, reason: &str, message: &str) -> Failure {
    Failure {
        class,
        stage,
        reason: cut(reason, 64),
        message: cut(message, 1000),
        hint: Some(crate::controller::classify::hint(class).to_owned()),
        exit_code: None,
        exception: None,
        log_tail: None,
        pod: None,
        attempt: None,
    }
}

pub(super) fn hours(from: Timestamp, to: Timestamp, gpus: i32) -> f64 {
    round(to.duration_since(from).as_secs_f64().max(0.0) / 3600.0 * f64::from(gpus))
}

fn round(hours: f64) -> f64 {
    (hours * 10_000.0).round() / 10_000.0
}
