//! The first decisions of a run: is the spec possible with this model and runtime; pure.

use super::draft::{Draft, failure};
use super::{Change, choose};
use crate::api::condition::ConditionType;
use crate::api::names;
use crate::api::status::{FailureClass, Resolved, Stage};
use crate::controller::build::{self, Subject};
use crate::controller::observed::{Catalogue, Observed, SnapshotSeen};
use crate::controller::snapshot::Snapshot;
use crate::engine::resolve::{self, Refusal, Request};

/// A run without a spec hash: resolves it, keeps the snapshot, then accepts it together with the first intent. What cannot be
/// accepted stays Pending and is looked at again when spec, model or runtime change.
pub(super) fn accept(draft: &mut Draft<'_>) -> Change {
    let seen = draft.seen;
    let Some(catalogue) = &seen.catalogue else { return Change::Keep };
    let (snapshot, resolved) = match resolve_run(seen, catalogue) {
        Ok(both) => both,
        Err(refusal) => {
            draft.set(ConditionType::Accepted, Some(false), refusal.reason, &refusal.message);
            draft.blocked(refusal.reason, refusal.message);
            draft.look_again(60);
            return Change::Keep;
        }
    };
    let hash = snapshot.spec_hash(&seen.run.spec);
    match &seen.snapshot {
        SnapshotSeen::Unusable(why) => {
            draft.blocked("NameConflict", why.clone());
            Change::Keep
        }
        SnapshotSeen::Absent => create_snapshot(draft, &snapshot, &resolved, &hash),
        SnapshotSeen::Own(old) if **old != snapshot => Change::DeleteSnapshot(snapshot_name(seen)),
        SnapshotSeen::Own(_) => {
            draft.status.spec_hash = Some(hash);
            draft.set(
                ConditionType::Accepted,
                Some(true),
                "Accepted",
                &format!("model {} and runtime {} are resolved", resolved.model, resolved.runtime),
            );
            if resolved.register_to.is_none() {
                draft.set(ConditionType::Registered, Some(true), "NotRequested", "registerTo is not set");
            }
            draft.status.resolved = Some(resolved);
            choose(draft)
        }
    }
}

/// An accepted run whose snapshot is gone: it is made again only if it comes out the same.
pub(super) fn restore(draft: &mut Draft<'_>) -> Change {
    let seen = draft.seen;
    let name = snapshot_name(seen);
    if let SnapshotSeen::Unusable(why) = &seen.snapshot {
        draft.blocked("NameConflict", why.clone());
        return Change::Keep;
    }
    let Some(catalogue) = &seen.catalogue else { return Change::Keep };
    if let Ok((snapshot, resolved)) = resolve_run(seen, catalogue) {
        let hash = snapshot.spec_hash(&seen.run.spec);
        if draft.status.spec_hash.as_ref() == Some(&hash) {
            return create_snapshot(draft, &snapshot, &resolved, &hash);
        }
    }
    let message = format!("ConfigMap {name} was deleted, and the model or runtime that it kept has changed since: make a new run");
    draft.fail(failure(FailureClass::Infrastructure, Stage::Preflight, "SnapshotLost", &message));
    Change::Keep
}

fn create_snapshot(draft: &Draft<'_>, snapshot: &Snapshot, resolved: &Resolved, hash: &str) -> Change {
    let seen = draft.seen;
    let metadata = &seen.run.metadata;
    let subject = Subject {
        run: &seen.run,
        name: metadata.name.as_deref().unwrap_or_default(),
        namespace: metadata.namespace.as_deref().unwrap_or_default(),
        uid: metadata.uid.as_deref().unwrap_or_default(),
        spec_hash: hash,
        resolved,
        snapshot,
        settings: &seen.settings,
    };
    Change::CreateSnapshot(Box::new(build::snapshot(&subject)))
}

fn snapshot_name(seen: &Observed) -> String {
    let metadata = &seen.run.metadata;
    names::snapshot(metadata.name.as_deref().unwrap_or_default(), metadata.uid.as_deref().unwrap_or_default())
}

fn resolve_run(seen: &Observed, catalogue: &Catalogue) -> Result<(Snapshot, Resolved), Refusal> {
    let spec = &seen.run.spec;
    let refuse = |reason, field, message| Err(Refusal { reason, field, message });
    let defaults = match &catalogue.defaults {
        Ok(defaults) => defaults,
        Err(why) => return refuse("DefaultsInvalid", "", why.clone()),
    };
    let Some((model_object, model)) = &catalogue.model else {
        let closest = resolve::closest(&spec.model, catalogue.known_models.iter().map(String::as_str));
        let advice = closest.map_or_else(
            || "kubectl get finetunemodels lists the models".to_owned(),
            |name| format!("did you mean {name}? kubectl get finetunemodels lists all"),
        );
        return refuse("ModelNotFound", "spec.model", format!("spec.model: no FinetuneModel has the name {}: {advice}", spec.model));
    };
    let Some((runtime_object, runtime)) = &catalogue.runtime else {
        let message =
            format!("FinetuneModel {model_object} names the FinetuneRuntime {}, which does not exist: an admin must make it", model.runtime);
        return refuse("RuntimeNotFound", "spec.model", message);
    };
    let metadata = &seen.run.metadata;
    let resolved = resolve::resolve(&Request {
        run: metadata.name.as_deref().unwrap_or_default(),
        namespace: metadata.namespace.as_deref().unwrap_or_default(),
        spec,
        model_object,
        model,
        runtime_object,
        runtime,
        defaults,
        settings: &seen.settings,
    })?;
    let snapshot = Snapshot { model: model.clone(), runtime: runtime.clone(), secrets: defaults.secrets(spec) };
    Ok((snapshot, resolved))
}
