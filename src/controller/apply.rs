//! The apply step: writes, and only writes, one plan. The cluster first, then the status, then events, which never fail it.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy};
use kube::runtime::events::{Event, EventType};
use kube::{Api, Resource, ResourceExt};

use super::decide::{Change, Plan};
use super::observed::Observed;
use super::{Context, build};
use crate::api::status::{CurrentJob, EventType as RunEventType, FinetuneRunStatus, Stage};
use crate::api::{FinetuneRun, MANAGER};

/// A write that failed; the run is looked at again with backoff.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct Error {
    what: String,
    #[source]
    source: kube::Error,
}

fn writing(what: String) -> impl FnOnce(kube::Error) -> Error {
    move |source| Error { what, source }
}

/// What came of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Applied {
    /// All is written, or nothing was to be written.
    Done,
    /// Somebody else wrote the run in between: observe again.
    Outdated,
}

pub(super) async fn apply(ctx: &Context, seen: &Observed, plan: &Plan) -> Result<Applied, Error> {
    let namespace = seen.run.namespace().unwrap_or_default();
    let made = change(ctx, &namespace, &plan.change).await?;
    // In the same step, so that the Job counts as seen: should somebody delete it now, that is noticed.
    let status = match (made, plan.status.current_job.clone()) {
        (Some(uid), Some(job)) => &FinetuneRunStatus { current_job: Some(CurrentJob { uid: Some(uid), ..job }), ..plan.status.clone() },
        _ => &plan.status,
    };
    if seen.run.status.as_ref() == Some(status) {
        return Ok(Applied::Done);
    }
    let runs: Api<FinetuneRun> = Api::namespaced(ctx.client.clone(), &namespace);
    let name = seen.run.name_any();
    // The version that was decided on is a precondition: an intent is never written over a change that was not seen.
    let patch = serde_json::json!({
        "apiVersion": FinetuneRun::api_version(&()), "kind": FinetuneRun::kind(&()),
        "metadata": {"name": name, "namespace": namespace, "resourceVersion": seen.run.resource_version(), "uid": seen.run.uid()},
        "status": status,
    });
    match runs.patch_status(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(patch)).await {
        Ok(_) => {
            count(ctx, seen, status);
            publish(ctx, seen, status).await;
            Ok(Applied::Done)
        }
        Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => Ok(Applied::Outdated),
        Err(source) => Err(writing(format!("write the status of FinetuneRun {namespace}/{name}"))(source)),
    }
}

/// What this step newly told, as metrics.
fn count(ctx: &Context, seen: &Observed, new: &FinetuneRunStatus) {
    ctx.metrics.status_written();
    let old = seen.run.status.clone().unwrap_or_default();
    let Some(job) = &old.current_job else { return };
    if job.uid.is_none() && new.current_job.as_ref().is_some_and(|wanted| wanted.name == job.name && wanted.uid.is_some()) {
        ctx.metrics.job_created(job.stage);
    }
    if new.current_job.as_ref().is_some_and(|wanted| wanted.name == job.name) {
        return;
    }
    let class = new.failure.as_ref().filter(|_| new.failure != old.failure).map(|failure| failure.class);
    match job.stage {
        Stage::Preflight => ctx.metrics.preflight_ended(class),
        Stage::Train => {
            let (before, after) = (old.gpu_hours.unwrap_or_default(), new.gpu_hours.unwrap_or_default());
            ctx.metrics.attempt_ended(class, after.used - before.used, after.lost - before.lost);
        }
        Stage::Convert | Stage::Register => {}
    }
}

/// Makes the change; the uid of the Job that it made.
async fn change(ctx: &Context, namespace: &str, change: &Change) -> Result<Option<String>, Error> {
    let maps: Api<ConfigMap> = Api::namespaced(ctx.client.clone(), namespace);
    let jobs: Api<Job> = Api::namespaced(ctx.client.clone(), namespace);
    match change {
        Change::Keep => Ok(None),
        Change::CreateSnapshot(map) => create(&maps, map).await.map(|_| None),
        Change::DeleteSnapshot(name) => {
            let result = maps.delete(name, &DeleteParams::default()).await.map(|_| ());
            gone_is_fine(result).map(|()| None).map_err(writing(format!("delete ConfigMap {namespace}/{name}")))
        }
        Change::CreateStage { stage, ca, service } => create_stage(ctx, namespace, stage, ca.as_deref(), service.as_deref()).await,
        Change::DeleteJob { name, uid } => {
            let params = DeleteParams {
                propagation_policy: Some(PropagationPolicy::Foreground),
                preconditions: Some(Preconditions { uid: Some(uid.clone()), resource_version: None }),
                ..DeleteParams::default()
            };
            let result = jobs.delete(name, &params).await.map(|_| ());
            gone_is_fine(result).map(|()| None).map_err(writing(format!("delete Job {namespace}/{name}")))
        }
    }
}

/// The Job last: one that exists always has what its pods mount and how its nodes find each other. Returns the uid of the Job.
async fn create_stage(
    ctx: &Context,
    namespace: &str,
    stage: &build::Stage,
    ca: Option<&ConfigMap>,
    service: Option<&Service>,
) -> Result<Option<String>, Error> {
    let maps: Api<ConfigMap> = Api::namespaced(ctx.client.clone(), namespace);
    if let Some(ca) = ca {
        let name = ca.name_any();
        maps.patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(ca))
            .await
            .map_err(writing(format!("apply ConfigMap {namespace}/{name}")))?;
    }
    if let Some(service) = service {
        create(&Api::<Service>::namespaced(ctx.client.clone(), namespace), service).await?;
    }
    create(&maps, &stage.config).await?;
    let made = create(&Api::<Job>::namespaced(ctx.client.clone(), namespace), &stage.job).await?;
    Ok(made.and_then(|job| job.uid()))
}

/// Creates an object with a deterministic name. That it exists already is no error: the next observation says whose it is.
async fn create<K>(api: &Api<K>, object: &K) -> Result<Option<K>, Error>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
{
    match api.create(&PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() }, object).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(None),
        Err(source) => {
            let namespace = object.meta().namespace.clone().unwrap_or_default();
            Err(writing(format!("create {} {namespace}/{}", K::kind(&()), object.name_any()))(source))
        }
        Ok(made) => Ok(Some(made)),
    }
}

fn gone_is_fine(result: Result<(), kube::Error>) -> Result<(), kube::Error> {
    match result {
        // A uid that does not match is a conflict: the object that was meant is gone.
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
        other => other,
    }
}

/// One Kubernetes Event for each new event of the run. Losing one is no error: the status has them all.
async fn publish(ctx: &Context, seen: &Observed, status: &FinetuneRunStatus) {
    let old = seen.run.status.as_ref().map(|status| status.events.as_slice()).unwrap_or_default();
    for event in status.events.iter().filter(|event| !old.contains(event)) {
        let bad = matches!(event.type_, RunEventType::CheckFailed | RunEventType::Failed | RunEventType::FailedException | RunEventType::Requeued);
        let note = Event {
            type_: if bad { EventType::Warning } else { EventType::Normal },
            reason: event.type_.as_str().to_owned(),
            note: Some(event.message.clone()),
            action: event.attempt.map_or_else(|| "Run".to_owned(), |attempt| format!("Attempt{attempt}")),
            secondary: None,
        };
        if let Err(error) = ctx.recorder.publish(&note, &seen.run.object_ref(&())).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "publish an event");
        }
    }
}
