//! Keeps a status within its size, whatever a run went through; pure.

use crate::api::status::FinetuneRunStatus;
use crate::controller::classify::cut;

/// Most bytes of a stored status.
pub(super) const LIMIT: usize = 32 * 1024;
/// What is left of an event's message where room is needed.
const SHORT: usize = 100;
/// Checkpoints that stay in any case: the newest.
const CHECKPOINTS: usize = 4;

fn bytes(status: &FinetuneRunStatus) -> usize {
    serde_json::to_vec(status).map_or(0, |bytes| bytes.len())
}

/// The status, with as much of its past as fits. Events keep their number: one that is dropped would be told again by the next report.
pub(super) fn fitted(mut status: FinetuneRunStatus) -> FinetuneRunStatus {
    if bytes(&status) <= LIMIT {
        return status;
    }
    for event in &mut status.events {
        event.message = cut(&event.message, SHORT);
    }
    while bytes(&status) > LIMIT && status.checkpoints.len() > CHECKPOINTS {
        let oldest = status.checkpoints.iter().position(|checkpoint| !checkpoint.newest).unwrap_or(0);
        status.checkpoints.remove(oldest);
    }
    let older = status.attempts.len().saturating_sub(1);
    for attempt in 0..older {
        if bytes(&status) > LIMIT {
            status.attempts[attempt].nodes.clear();
        }
    }
    // The status's own message says it in full.
    if bytes(&status) > LIMIT {
        for condition in &mut status.conditions {
            condition.message = cut(&condition.message, SHORT);
        }
    }
    status
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

    use super::*;
    use crate::api::condition::ConditionType;
    use crate::api::status::{Attempt, Checkpoint, EventType, RunEvent, Stage};
    use crate::controller::decide::draft::failure;

    /// Every list as long as it may be, and texts as long as a bad day makes them.
    fn worst() -> FinetuneRunStatus {
        let time = || Time(Timestamp::UNIX_EPOCH);
        let event = |_| RunEvent { type_: EventType::Requeued, time: time(), message: "m".repeat(500), attempt: Some(7) };
        let checkpoint = |step: i64| Checkpoint {
            step,
            time: time(),
            uri: format!("s3://{}/{step}", "u".repeat(1190)),
            size_bytes: Some(i64::MAX),
            kind: "composer".to_owned(),
            newest: step == 31,
        };
        let attempt = |number: i64| Attempt {
            number,
            job: "j".repeat(63),
            nodes: vec!["n".repeat(63); 16],
            started_at: Some(time()),
            ended_at: Some(time()),
            reason: Some("r".repeat(64)),
            exit_code: Some(255),
            gpu_hours: 1234.5678,
            resumed_from_step: Some(1),
        };
        let condition = |type_: &ConditionType| Condition {
            type_: type_.as_str().to_owned(),
            status: "False".to_owned(),
            reason: "r".repeat(64),
            message: "m".repeat(1000),
            last_transition_time: time(),
            observed_generation: Some(1),
        };
        let class = crate::api::status::FailureClass::Infrastructure;
        FinetuneRunStatus {
            events: (0..64).map(event).collect(),
            checkpoints: (0..32).map(checkpoint).collect(),
            attempts: (0..16).map(attempt).collect(),
            conditions: ConditionType::ALL.iter().map(condition).collect(),
            failure: Some(failure(class, Stage::Train, "r", &"m".repeat(1000))),
            message: Some("m".repeat(1024)),
            ..FinetuneRunStatus::default()
        }
    }

    #[test]
    fn the_worst_status_fits_and_keeps_its_events_its_attempts_and_its_newest_checkpoint() {
        let before = worst();
        let after = fitted(before.clone());
        assert!(bytes(&before) > 2 * LIMIT && bytes(&after) <= LIMIT, "{} {}", bytes(&before), bytes(&after));
        assert_eq!((after.events.len(), after.attempts.len(), after.checkpoints.len()), (64, 16, CHECKPOINTS));
        assert!(after.checkpoints.iter().any(|checkpoint| checkpoint.newest));
        assert_eq!(after.attempts[15], before.attempts[15]);
        assert_eq!(fitted(after.clone()), after);
    }

    #[test]
    fn a_status_that_fits_is_left_alone() {
        let status = FinetuneRunStatus { message: Some("m".repeat(1024)), ..FinetuneRunStatus::default() };
        assert_eq!(fitted(status.clone()), status);
    }
}
