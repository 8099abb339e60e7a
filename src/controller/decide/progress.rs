//! What the pods and the trainer's reports say of a running attempt; pure. Reports come from user code: they move progress,
//! events and checkpoints, never a verdict.

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::draft::Draft;
use crate::api::status::{Checkpoint, CurrentJob, EventType, Progress, RunEvent};
use crate::controller::classify::cut;
use crate::controller::facts::{Container, JobSeen, Outcome};
use crate::report::message::{self, Report};
use crate::report::store::Received;

/// Seconds between two writes of mere progress.
const INTERVAL: SignedDuration = SignedDuration::from_secs(15);
const MAX_CHECKPOINTS: usize = 32;

/// Where an attempt stands on its way to the first step.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Situation {
    /// Waits for resources: reason and message.
    Queued(&'static str, String),
    /// Being set up: reason and what it waits for.
    Starting(&'static str, String),
    /// Training or exporting.
    Running,
}

pub(super) fn update(draft: &mut Draft<'_>, current: &CurrentJob) {
    note_pods(draft, current);
    let known = (draft.status.events.clone(), draft.status.checkpoints.clone());
    let report = draft.seen.report.clone();
    if let Some(received) = &report {
        take_events(draft, current, &received.report);
        let reported: Vec<Checkpoint> = received.report.checkpoints.iter().map(message::Checkpoint::to_status).collect();
        merge_checkpoints(draft, reported);
    }
    let mut progress = draft.status.progress.clone().unwrap_or_default();
    let waiting_for = match situation(draft) {
        Situation::Starting(_, what) => Some(cut(&what, 64)),
        Situation::Queued(..) | Situation::Running => None,
    };
    let is_news = known != (draft.status.events.clone(), draft.status.checkpoints.clone())
        || without_percent(progress.waiting_for.as_deref()) != without_percent(waiting_for.as_deref())
        || !matches!(&draft.seen.job, JobSeen::Own(job) if job.outcome == Outcome::Open);
    let is_due = |received: &&Received| progress.last_heard_from.as_ref().is_none_or(|heard| received.at.duration_since(heard.0) >= INTERVAL);
    let due = report.as_ref().filter(|received| is_news || is_due(received));
    let waiting_for = if due.is_some() || is_news { waiting_for } else { progress.waiting_for.take() };
    if let Some(received) = due {
        progress = reported(received, progress);
        let left = received.report.progress.estimated_remaining_seconds;
        draft.status.estimated_end_time = left.map(|left| Time(received.at + SignedDuration::from_secs(left)));
    }
    if finished(draft, current) {
        draft.status.estimated_end_time = None;
        progress.eta = None;
    }
    progress.summary = match (&waiting_for, progress.percent) {
        (Some(what), _) => Some(what.clone()),
        (None, Some(percent)) => Some(format!("{percent}%")),
        (None, None) => None,
    };
    progress.waiting_for = waiting_for;
    draft.status.progress = (progress != Progress::default()).then_some(progress);
}

/// What is waited for, without how far it is: the percent alone is no news.
fn without_percent(waiting_for: Option<&str>) -> Option<&str> {
    waiting_for.map(|what| what.trim_end_matches(|c: char| c.is_ascii_digit() || c == '%' || c == ' '))
}

/// Where the attempt stands.
pub(super) fn situation(draft: &Draft<'_>) -> Situation {
    let seen = draft.seen;
    if let JobSeen::Own(job) = &seen.job
        && job.suspended
    {
        return Situation::Queued("WaitingForQuota", "the queue has not admitted the run yet".to_owned());
    }
    let Some(pod) = seen.pods.iter().min_by_key(|pod| pod.rank) else {
        return Situation::Queued("WaitingForPod", "the training pod is not there yet".to_owned());
    };
    if let Some(why) = seen.pods.iter().find_map(|pod| pod.unschedulable.as_ref()) {
        return Situation::Queued("Unschedulable", format!("no node fits: {why}"));
    }
    if pod.scheduled_at.is_none() && pod.node.is_none() {
        return Situation::Queued("WaitingForNode", "the training pod has no node yet".to_owned());
    }
    match &pod.container {
        Container::Waiting(..) | Container::Unknown => match super::patience::problem(pod) {
            Some((reason, why)) => Situation::Starting(reason, why),
            None => Situation::Starting("ImagePull", "image and volumes".to_owned()),
        },
        Container::Running(_) | Container::Ended { .. } => match seen.report.as_ref().map(|received| &received.report) {
            Some(Report { waiting_for: Some(waiting), .. }) => Situation::Starting(
                "Initializing",
                waiting.percent.map_or_else(|| waiting.what.clone(), |percent| format!("{} {percent}%", waiting.what)),
            ),
            Some(report) if report.progress == message::Progress::default() && report.events.is_empty() => {
                Situation::Starting("Initializing", "initialisation".to_owned())
            }
            None if !draft.status.events.iter().any(|e| e.type_ == EventType::TrainStarted && e.attempt == draft.status.attempt) => {
                Situation::Starting("Initializing", "initialisation".to_owned())
            }
            _ => Situation::Running,
        },
    }
}

fn note_pods(draft: &mut Draft<'_>, current: &CurrentJob) {
    let seen = draft.seen;
    let Some(scheduled) = seen.pods.iter().filter_map(|pod| pod.scheduled_at).max() else { return };
    let mut nodes: Vec<String> = seen.pods.iter().filter_map(|pod| pod.node.clone()).take(16).collect();
    nodes.sort();
    let Some(attempt) = draft.status.attempts.iter_mut().find(|attempt| attempt.number == current.number) else { return };
    if attempt.started_at.is_some() {
        return;
    }
    attempt.started_at = Some(Time(scheduled));
    attempt.nodes = nodes;
    if draft.status.started_at.is_none() {
        draft.status.started_at = Some(Time(scheduled));
    }
    let resumed = attempt.resumed_from_step.map(|step| format!(", from the checkpoint of step {step}")).unwrap_or_default();
    let message = format!("attempt {} has its node{resumed}", current.number);
    draft.event_at(EventType::Started, &message, Time(scheduled), Some(current.number));
}

/// Adds the trainer's events that are not in the list yet. A post repeats all events of its process, with their own times.
fn take_events(draft: &mut Draft<'_>, current: &CurrentJob, report: &Report) {
    for event in &report.events {
        let event = event.to_status(current.number);
        // Only checkpoints come more than once an attempt; they are told apart by their times, which the API server keeps in whole seconds.
        let same = |old: &&RunEvent| {
            old.attempt == event.attempt
                && old.type_ == event.type_
                && (event.type_ != EventType::CheckpointSaved || old.time.0.as_second() == event.time.0.as_second())
        };
        if !draft.status.events.iter().any(|old| same(&old)) {
            draft.event_at(event.type_, &event.message, event.time, event.attempt);
        }
    }
}

fn finished(draft: &Draft<'_>, current: &CurrentJob) -> bool {
    draft.status.events.iter().any(|event| event.type_ == EventType::TrainFinished && event.attempt == Some(current.number))
}

/// Merges by address, oldest first; as many engine checkpoints stay as the run keeps; the newest of them is marked.
pub(super) fn merge_checkpoints(draft: &mut Draft<'_>, new: impl IntoIterator<Item = Checkpoint>) {
    let all = &mut draft.status.checkpoints;
    for checkpoint in new {
        if !all.iter().any(|known| known.uri == checkpoint.uri) {
            all.push(checkpoint);
        }
    }
    all.sort_by(|a, b| (a.step, &a.kind, &a.uri).cmp(&(b.step, &b.kind, &b.uri)));
    let keep = usize::try_from(draft.seen.run.spec.keep_checkpoints).unwrap_or(1);
    let mut excess = all.iter().filter(|c| c.kind == "composer").count().saturating_sub(keep);
    all.retain(|c| {
        let drop = excess > 0 && c.kind == "composer";
        excess -= usize::from(drop);
        !drop
    });
    let over = all.len().saturating_sub(MAX_CHECKPOINTS);
    all.drain(..over);
    let newest = all.iter().rposition(|c| c.kind == "composer");
    for (index, checkpoint) in all.iter_mut().enumerate() {
        checkpoint.newest = Some(index) == newest;
    }
}

fn reported(received: &Received, old: Progress) -> Progress {
    let told = &received.report.progress;
    if *told == message::Progress::default() {
        return Progress { last_heard_from: Some(Time(received.at)), ..old };
    }
    let share = |done: Option<i64>, all: Option<i64>| match (done, all) {
        (Some(done), Some(all)) if all > 0 => i32::try_from(done.clamp(0, all) * 100 / all).ok(),
        _ => None,
    };
    Progress {
        percent: told.percent.or_else(|| share(told.tokens, told.total_tokens)).or_else(|| share(told.step, told.total_steps)).or(old.percent),
        eta: told.estimated_remaining_seconds.map(eta),
        step: told.step,
        total_steps: told.total_steps,
        epoch: told.epoch,
        tokens: told.tokens,
        total_tokens: told.total_tokens,
        loss: told.loss,
        learning_rate: told.learning_rate,
        gradient_norm: told.gradient_norm,
        tokens_per_second: told.tokens_per_second,
        eval_metrics: if told.eval_metrics.is_empty() { old.eval_metrics } else { told.eval_metrics.clone() },
        last_heard_from: Some(Time(received.at)),
        summary: None,
        waiting_for: None,
    }
}

/// Remaining time in one unit, cut: below a minute `Ns`, below an hour `Nmin`, below a day `Nhr`, else `Nd`.
pub(super) fn eta(seconds: i64) -> String {
    match seconds.max(0) {
        s @ 0..60 => format!("{s}s"),
        s @ 60..3_600 => format!("{}min", s / 60),
        s @ 3_600..86_400 => format!("{}hr", s / 3_600),
        s => format!("{}d", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::eta;

    #[test]
    fn remaining_time_has_one_unit_and_is_cut_not_rounded() {
        let cases = [(-5, "0s"), (59, "59s"), (60, "1min"), (3_599, "59min"), (3_600, "1hr"), (86_399, "23hr"), (200_000, "2d")];
        assert_eq!(cases.map(|(seconds, _)| eta(seconds)), cases.map(|(_, text)| text.to_owned()));
    }
}
