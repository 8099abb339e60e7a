//! How long a Job may hold its resources without getting anywhere; pure. What is given up is written as an intent first.

use jiff::SignedDuration;

use super::draft::{Draft, failure};
use crate::api::status::{CurrentJob, Failure, FailureClass, Stage};
use crate::controller::facts::{Container, PodFacts};

/// A container that the node cannot start, for a reason that the node names.
const HINDERED: SignedDuration = SignedDuration::from_mins(15);
/// A container that the node says nothing about: a large image on a slow network takes its time.
const SILENT: SignedDuration = SignedDuration::from_hours(2);
/// A trainer that goes on posting and always the same.
const STILL: SignedDuration = SignedDuration::from_hours(1);

/// Why the current Job is to be given up, if it is.
pub(super) fn overdue(draft: &Draft<'_>, current: &CurrentJob) -> Option<Failure> {
    let seen = draft.seen;
    let given_up = |class, reason: &str, message: String| Failure {
        attempt: (current.stage == Stage::Train).then_some(current.number),
        ..failure(class, current.stage, reason, &message)
    };
    for pod in seen.pods.iter().filter(|pod| !pod.ended) {
        let since = pod.scheduled_at.map_or(SignedDuration::ZERO, |at| seen.now.duration_since(at));
        let minutes = since.as_mins();
        match (&pod.container, problem(pod)) {
            (Container::Waiting(..) | Container::Unknown, Some((reason, why))) if since >= HINDERED => {
                let message = format!("pod {} did not start within {minutes} minutes: {why}", pod.name);
                return Some(given_up(FailureClass::Infrastructure, reason, message));
            }
            (Container::Waiting(..) | Container::Unknown, None) if since >= SILENT => {
                let message = format!("pod {} did not start within {minutes} minutes, and its node does not say why", pod.name);
                return Some(given_up(FailureClass::Infrastructure, "NotStarted", message));
            }
            _ => {}
        }
    }
    let received = seen.report.as_ref()?;
    let still = received.at.duration_since(received.moved);
    (still >= STILL).then(|| {
        let step = received.report.progress.step.unwrap_or_default();
        let message = format!("the trainer reports, but has been at step {step} for {} minutes", still.as_mins());
        given_up(FailureClass::Stalled, "Stalled", message)
    })
}

/// Reason and words of what keeps a container from starting.
pub(super) fn problem(pod: &PodFacts) -> Option<(&'static str, String)> {
    match &pod.container {
        Container::Waiting(reason, message) if !matches!(reason.as_str(), "ContainerCreating" | "PodInitializing" | "") => {
            let known = match reason.as_str() {
                "ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull" | "InvalidImageName" => "FailedImagePull",
                _ => "ContainerWaiting",
            };
            Some((known, format!("{reason}: {message}")))
        }
        Container::Waiting(..) | Container::Unknown => pod.warning.clone().map(|warning| ("ContainerWaiting", warning)),
        Container::Running(_) | Container::Ended { .. } => None,
    }
}
