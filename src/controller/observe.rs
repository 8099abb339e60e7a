//! The observe step: reads, and only reads, everything one decision rests on. The run itself is read live: a cache decides
//! only whether to look.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Pod, ServiceAccount};
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use super::Context;
use super::facts::{Container, JobSeen, PodFacts, controller_uid};
use super::observed::{Catalogue, Observed, ServiceAccountSeen, SnapshotSeen};
use super::snapshot::{self, Snapshot};
use crate::api::defaults::{self, NamespaceDefaults};
use crate::api::status::Stage;
use crate::api::{DEFAULT_SERVICE_ACCOUNT, FinetuneModel, FinetuneRun, FinetuneRunStatus, FinetuneRuntime, SERVICE_ACCOUNT_OPT_IN, names};

/// Seconds after which a container that does not start has its events looked up.
const PATIENCE: i64 = 10;

/// A read that failed; the run is looked at again with backoff.
#[derive(Debug, thiserror::Error)]
#[error("read {what}")]
pub struct Error {
    what: String,
    #[source]
    source: kube::Error,
}

fn reading(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Error {
    let what = what.into();
    move |source| Error { what, source }
}

/// Reads a run and what belongs to it; `None` when the run is gone.
pub(super) async fn observe(ctx: &Context, namespace: &str, name: &str) -> Result<Option<Observed>, Error> {
    let runs: Api<FinetuneRun> = Api::namespaced(ctx.client.clone(), namespace);
    let Some(run) = runs.get_opt(name).await.map_err(reading(format!("FinetuneRun {namespace}/{name}")))? else {
        return Ok(None);
    };
    let status = run.status.clone().unwrap_or_default();
    let mut seen = Observed {
        settings: ctx.settings.clone(),
        now: Timestamp::now(),
        ca_pem: ctx.ca_pem(),
        catalogue: None,
        snapshot: SnapshotSeen::Absent,
        service_account: ServiceAccountSeen::Unread,
        job: JobSeen::Absent,
        pods: Vec::new(),
        report: None,
        run,
    };
    if status.phase.is_some_and(crate::api::status::Phase::is_sink) || seen.run.metadata.deletion_timestamp.is_some() {
        return Ok(Some(seen));
    }
    let uid = seen.run.uid().unwrap_or_default();
    seen.snapshot = read_snapshot(ctx, namespace, name, &uid).await?;
    if status.spec_hash.is_none() || seen.snapshot == SnapshotSeen::Absent {
        seen.catalogue = Some(read_catalogue(ctx, namespace, &seen.run.spec.model).await?);
    }
    if let Some(current) = &status.current_job {
        let jobs: Api<Job> = Api::namespaced(ctx.client.clone(), namespace);
        let job = jobs.get_opt(&current.name).await.map_err(reading(format!("Job {namespace}/{}", current.name)))?;
        seen.job = job.map_or(JobSeen::Absent, |job| JobSeen::of(&job, &uid));
        if current.uid.is_none() && seen.job == JobSeen::Absent {
            seen.service_account = read_account(ctx, namespace, &seen.run.spec.service_account_name).await?;
        }
        seen.pods = read_pods(ctx, namespace, &uid, &status, &seen).await?;
        if current.stage == Stage::Train {
            seen.report = ctx.reports.latest(&uid, current.number);
        }
    }
    Ok(Some(seen))
}

async fn read_snapshot(ctx: &Context, namespace: &str, run: &str, uid: &str) -> Result<SnapshotSeen, Error> {
    let name = names::snapshot(run, uid);
    let maps: Api<ConfigMap> = Api::namespaced(ctx.client.clone(), namespace);
    let Some(map) = maps.get_opt(&name).await.map_err(reading(format!("ConfigMap {namespace}/{name}")))? else {
        return Ok(SnapshotSeen::Absent);
    };
    if controller_uid(&map.metadata) != Some(uid) {
        return Ok(SnapshotSeen::Unusable(format!("ConfigMap {name} exists and is not of this run: delete or rename it")));
    }
    let text = map.data.as_ref().and_then(|data| data.get(snapshot::KEY)).map(String::as_str).unwrap_or_default();
    Ok(match serde_json::from_str::<Snapshot>(text) {
        Ok(snapshot) => SnapshotSeen::Own(Box::new(snapshot)),
        Err(error) => SnapshotSeen::Unusable(format!("ConfigMap {name} cannot be read ({error}): delete it")),
    })
}

/// The models are listed whole, since the closest name is wanted as well; there are few.
async fn read_catalogue(ctx: &Context, namespace: &str, wanted: &str) -> Result<Catalogue, Error> {
    let models: Api<FinetuneModel> = Api::all(ctx.client.clone());
    let maps: Api<ConfigMap> = Api::namespaced(ctx.client.clone(), namespace);
    let models = models.list(&ListParams::default()).await.map_err(reading("the FinetuneModels"))?;
    let map = maps.get_opt(defaults::NAME).await.map_err(reading(format!("ConfigMap {namespace}/{}", defaults::NAME)))?;
    let defaults = map.map_or_else(|| Ok(NamespaceDefaults::default()), |map| NamespaceDefaults::parse(&map.data.unwrap_or_default()));
    let known_models = models.items.iter().map(|model| model.spec.name.clone()).collect();
    let mut named: Vec<FinetuneModel> = models.items.into_iter().filter(|model| model.spec.name == wanted).collect();
    named.sort_by_key(|model| (model.creation_timestamp().map(|t| t.0), model.name_any()));
    let model = named.into_iter().next();
    let mut runtime = None;
    if let Some(model) = &model {
        let name = &model.spec.runtime;
        let runtimes: Api<FinetuneRuntime> = Api::all(ctx.client.clone());
        let found = runtimes.get_opt(name).await.map_err(reading(format!("FinetuneRuntime {name}")))?;
        runtime = found.map(|runtime| (name.clone(), runtime.spec));
    }
    Ok(Catalogue { model: model.map(|model| (model.name_any(), model.spec)), known_models, runtime, defaults })
}

async fn read_account(ctx: &Context, namespace: &str, name: &str) -> Result<ServiceAccountSeen, Error> {
    let accounts: Api<ServiceAccount> = Api::namespaced(ctx.client.clone(), namespace);
    let account = accounts.get_opt(name).await.map_err(reading(format!("ServiceAccount {namespace}/{name}")))?;
    Ok(account.map_or(ServiceAccountSeen::Absent, |account| ServiceAccountSeen::Present {
        allowed: name == DEFAULT_SERVICE_ACCOUNT || account.labels().get(SERVICE_ACCOUNT_OPT_IN).is_some_and(|v| v == "true"),
    }))
}

/// Pods are found by label and believed only if their controller is the Job that was seen. Before one was seen all of them
/// count: the Job may have been made, and deleted by somebody, without the operator's knowing.
async fn read_pods(ctx: &Context, namespace: &str, run_uid: &str, status: &FinetuneRunStatus, seen: &Observed) -> Result<Vec<PodFacts>, Error> {
    let Some(current) = &status.current_job else { return Ok(Vec::new()) };
    let job_uid = match &seen.job {
        JobSeen::Own(job) => Some(job.uid.clone()),
        _ => current.uid.clone(),
    };
    let pods: Api<Pod> = Api::namespaced(ctx.client.clone(), namespace);
    let selector = format!("{}={run_uid},{}={},{}={}", names::RUN_UID, names::STAGE, current.stage.as_str(), names::NUMBER, current.number);
    let list = pods.list(&ListParams::default().labels(&selector)).await.map_err(reading(format!("pods of Job {namespace}/{}", current.name)))?;
    let mut facts = Vec::new();
    for pod in list.items.iter().filter(|pod| job_uid.is_none() || controller_uid(&pod.metadata) == job_uid.as_deref()) {
        let mut fact = PodFacts::of(pod);
        let waits = matches!(fact.container, Container::Waiting(..) | Container::Unknown) && !fact.ended;
        let since = fact.scheduled_at.map_or(0, |at| seen.now.duration_since(at).as_secs());
        if waits && since >= PATIENCE {
            fact.warning = read_warning(ctx, namespace, &pod.uid().unwrap_or_default()).await?;
        }
        facts.push(fact);
    }
    Ok(facts)
}

/// A Secret or a volume that is missing shows only as an event.
async fn read_warning(ctx: &Context, namespace: &str, pod_uid: &str) -> Result<Option<String>, Error> {
    let events: Api<Event> = Api::namespaced(ctx.client.clone(), namespace);
    let params = ListParams::default().fields(&format!("involvedObject.uid={pod_uid},type=Warning")).limit(50);
    let list = events.list(&params).await.map_err(reading(format!("events in {namespace}")))?;
    let newest = list.items.into_iter().max_by_key(|event| event.last_timestamp.as_ref().map(|t| t.0));
    Ok(newest.map(|event| format!("{}: {}", event.reason.unwrap_or_default(), event.message.unwrap_or_default())))
}
