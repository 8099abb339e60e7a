//! Whether a conversion is due, and what its end means; pure.

use super::draft::Draft;
use crate::api::condition::ConditionType;
use crate::api::status::{CurrentJob, EventType, Failure, FailureClass, FinetuneRunStatus, Stage, Tokenizer};
use crate::controller::build::{self, Converted};
use crate::controller::classify;
use crate::controller::facts::Outcome;
use crate::controller::observed::SnapshotSeen;

/// Conversions that may fail for reasons that are not the user's.
const MAX_CONVERSIONS: i64 = 6;

/// Whether the preflight found that the model needs a tokenizer that is not made yet.
pub(super) fn tokenizer_is_due(draft: &Draft<'_>) -> bool {
    draft.status.tokenizer.as_ref().is_some_and(|tokenizer| !tokenizer.made)
}

/// What the preflight reads instead of its originals.
pub(super) fn made(status: &FinetuneRunStatus) -> Converted<'_> {
    let tokenizer = status.tokenizer.as_ref().filter(|tokenizer| tokenizer.made);
    Converted { tables: status.tables_copied, tokenizer: tokenizer.map(|tokenizer| tokenizer.uri.as_str()) }
}

/// What is there before the conversion, and the tokenizer that it shall make.
pub(super) fn to_make(status: &FinetuneRunStatus) -> Converted<'_> {
    let tokenizer = status.tokenizer.as_ref().filter(|tokenizer| !tokenizer.made);
    Converted { tables: status.tables_copied, tokenizer: tokenizer.map(|tokenizer| tokenizer.uri.as_str()) }
}

/// The model has no `tokenizer.json`, and nothing else is wrong: one is made from the older files.
pub(super) fn want_tokenizer(draft: &mut Draft<'_>) {
    let SnapshotSeen::Own(snapshot) = &draft.seen.snapshot else { return };
    let weights = draft.status.resolved.as_ref().map_or("", |resolved| resolved.weights.as_str());
    let uri = build::tokenizer_folder(&draft.seen.run.spec.save_folder, weights, snapshot.model.revision.as_deref());
    draft.status.tokenizer = Some(Tokenizer { uri, made: false });
}

/// Whether tables of the run are still to be copied to files.
pub(super) fn tables_are_due(draft: &Draft<'_>) -> bool {
    let spec = &draft.seen.run.spec;
    let places = std::iter::once(&spec.train_data_path).chain(&spec.eval_data_path);
    !draft.status.tables_copied && places.into_iter().any(|place| build::is_table(place))
}

pub(super) fn ended(draft: &mut Draft<'_>, current: &CurrentJob, outcome: &Outcome) {
    draft.status.current_job = None;
    if matches!(outcome, Outcome::Complete(_)) {
        // What was made is judged by the preflight that follows, whatever this Job says of it.
        draft.status.tables_copied = tables_are_due(draft) || draft.status.tables_copied;
        if let Some(tokenizer) = &mut draft.status.tokenizer {
            tokenizer.made = true;
        }
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
