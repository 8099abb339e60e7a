//! What the end of a registration means; pure.

use super::draft::{Draft, failure};
use crate::api::condition::ConditionType;
use crate::api::status::{CurrentJob, Failure, FailureClass, RegisteredModel, Stage};
use crate::controller::classify::{self, cut};
use crate::controller::facts::Outcome;

/// Registrations that may fail for reasons that are not the user's.
const MAX_REGISTRATIONS: i64 = 6;

pub(super) fn ended(draft: &mut Draft<'_>, current: &CurrentJob, outcome: &Outcome) {
    draft.status.current_job = None;
    let uid = draft.seen.run.metadata.uid.as_deref().unwrap_or_default();
    let wanted = draft.status.resolved.as_ref().and_then(|r| r.register_to.clone()).unwrap_or_default();
    if matches!(outcome, Outcome::Complete(_)) {
        let model = classify::farewell(&draft.seen.pods, uid).and_then(|farewell| farewell.model);
        match model.filter(|model| model.name == wanted && !model.version.is_empty()) {
            Some(model) => {
                let uri = format!("models:/{}/{}", model.name, cut(&model.version, 64));
                draft.set(ConditionType::Registered, Some(true), "Registered", &uri);
                draft.status.registered_model = Some(RegisteredModel { name: cut(&model.name, 512), version: cut(&model.version, 64), uri });
            }
            None => retry(
                draft,
                failure(FailureClass::Infrastructure, Stage::Register, "NoVerdict", "the registration did not say which version it made"),
            ),
        }
    } else {
        retry(draft, classify::failure(Stage::Register, current.number, outcome, &draft.seen.pods, uid));
    }
}

/// The Job was given up by us, or deleted by somebody before its end was seen: then it is simply made anew.
pub(super) fn lost(draft: &mut Draft<'_>, current: &CurrentJob) {
    draft.status.current_job = None;
    if let Some(failure) = current.given_up.as_deref() {
        retry(draft, failure.clone());
    }
}

/// A registration is idempotent by the run's uid, so trying again is safe.
fn retry(draft: &mut Draft<'_>, failure: Failure) {
    draft.set(ConditionType::Registered, Some(false), &failure.reason.clone(), &failure.message.clone());
    let transient = matches!(failure.class, FailureClass::Infrastructure | FailureClass::Preempted | FailureClass::NodeLost);
    let tried = draft.status.retries.registrations;
    if transient && tried < MAX_REGISTRATIONS {
        draft.status.failure = Some(failure);
        draft.back_off(tried);
    } else {
        draft.fail(failure);
    }
}
