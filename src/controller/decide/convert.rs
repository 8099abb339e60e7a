//! What the end of a conversion of tables means; pure.

use super::draft::Draft;
use crate::api::condition::ConditionType;
use crate::api::status::{CurrentJob, EventType, Failure, FailureClass, Stage};
use crate::controller::build;
use crate::controller::classify;
use crate::controller::facts::Outcome;

/// Conversions that may fail for reasons that are not the user's.
const MAX_CONVERSIONS: i64 = 6;

/// Whether tables of the run are still to be copied to files.
pub(super) fn is_due(draft: &Draft<'_>) -> bool {
    let spec = &draft.seen.run.spec;
    let places = std::iter::once(&spec.train_data_path).chain(&spec.eval_data_path);
    !draft.status.tables_copied && places.into_iter().any(|place| build::is_table(place))
}

pub(super) fn ended(draft: &mut Draft<'_>, current: &CurrentJob, outcome: &Outcome) {
    draft.status.current_job = None;
    if matches!(outcome, Outcome::Complete(_)) {
        // The files are judged by the preflight that follows, whatever this Job made of them.
        draft.status.tables_copied = true;
        return;
    }
    let uid = draft.seen.run.metadata.uid.as_deref().unwrap_or_default();
    retry(draft, classify::failure(Stage::Convert, current.number, outcome, &draft.seen.pods, uid));
}

/// The Job was given up by us, or deleted by somebody before its end was seen: then it is simply made anew.
pub(super) fn lost(draft: &mut Draft<'_>, current: &CurrentJob) {
    draft.status.current_job = None;
    if let Some(failure) = current.given_up.as_deref() {
        retry(draft, failure.clone());
    }
}

fn retry(draft: &mut Draft<'_>, failure: Failure) {
    draft.set(ConditionType::DataReady, Some(false), &failure.reason.clone(), &failure.message.clone());
    let transient = matches!(failure.class, FailureClass::Infrastructure | FailureClass::Preempted | FailureClass::NodeLost);
    let tried = draft.status.retries.conversions;
    if transient && tried < MAX_CONVERSIONS {
        draft.status.failure = Some(failure);
        draft.back_off(tried);
    } else {
        draft.event(EventType::CheckFailed, &failure.message.clone());
        draft.fail(failure);
    }
}
