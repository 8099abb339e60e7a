//! The reconcile loop: watches are only triggers, each ends in one step of `observe -> decide -> apply`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::core::DeserializeGuard;
use kube::runtime::controller::{self, Action};
use kube::runtime::events::Recorder;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::{Controller, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use tokio_util::sync::CancellationToken;

use super::apply::{self, Applied, apply};
use super::decide::decide;
use super::observe::{self, observe};
use super::settings::Settings;
use crate::api::{FinetuneModel, FinetuneRun, FinetuneRuntime, MANAGER, names};
use crate::metrics::Metrics;
use crate::report;

/// A run as it is watched: one that cannot be read must not stop the others.
pub type Watched = DeserializeGuard<FinetuneRun>;

/// The runs as they were watched last.
pub type RunStore = Store<Watched>;

/// Longest time for one step; a request on a dead connection would otherwise hang.
const STEP_LIMIT: Duration = Duration::from_secs(60);
const CONCURRENCY: u16 = 8;

/// What a reconcile works with.
pub struct Context {
    /// Client of the API server.
    pub client: Client,
    /// Settings from the chart.
    pub settings: Settings,
    /// Reports of the trainers.
    pub reports: Arc<report::store::Store>,
    /// File with the CA of the report endpoint; read for each training Job, so that a new one counts at once.
    pub ca_file: std::path::PathBuf,
    /// Publishes Kubernetes Events.
    pub recorder: Recorder,
    /// Metrics.
    pub metrics: Metrics,
    /// Failures in a row of each run, for the backoff.
    pub failures: Mutex<HashMap<ObjectRef<Watched>, u32>>,
}

impl Context {
    pub(super) fn ca_pem(&self) -> String {
        std::fs::read_to_string(&self.ca_file).unwrap_or_default()
    }
}

/// A step that failed for reasons that are not the user's.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A read.
    #[error(transparent)]
    Observe(#[from] observe::Error),
    /// A write.
    #[error(transparent)]
    Apply(#[from] apply::Error),
    /// It took too long.
    #[error("a step took longer than {} s", STEP_LIMIT.as_secs())]
    Timeout(#[from] tokio::time::error::Elapsed),
}

// The signatures of the next two are kube's.
#[allow(clippy::needless_pass_by_value)]
async fn reconcile(run: Arc<Watched>, ctx: Arc<Context>) -> Result<Action, Error> {
    if let Err(error) = &run.0 {
        tracing::warn!(run = %ObjectRef::from_obj(run.as_ref()), error = error as &dyn std::error::Error, "a stored FinetuneRun cannot be read");
        return Ok(Action::await_change());
    }
    let started = Instant::now();
    let namespace = run.namespace().unwrap_or_default();
    let result = tokio::time::timeout(STEP_LIMIT, step(&ctx, &namespace, &run.name_any())).await;
    ctx.metrics.reconciled(started.elapsed(), matches!(result, Ok(Ok(_))));
    let action = result??;
    ctx.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(&ObjectRef::from_obj(run.as_ref()));
    Ok(action)
}

async fn step(ctx: &Context, namespace: &str, name: &str) -> Result<Action, Error> {
    let Some(seen) = observe(ctx, namespace, name).await? else {
        return Ok(Action::await_change());
    };
    let plan = decide(&seen);
    if plan.next.is_none() {
        ctx.reports.forget(seen.run.uid().unwrap_or_default().as_str());
    }
    match apply(ctx, &seen, &plan).await? {
        Applied::Done => Ok(plan.next.map_or_else(Action::await_change, Action::requeue)),
        Applied::Outdated => Ok(Action::requeue(Duration::from_millis(100))),
    }
}

#[allow(clippy::needless_pass_by_value)]
fn error_policy(run: Arc<Watched>, _: &Error, ctx: Arc<Context>) -> Action {
    let mut failures = ctx.failures.lock().unwrap_or_else(PoisonError::into_inner);
    let count = failures.entry(ObjectRef::from_obj(run.as_ref())).or_default();
    *count += 1;
    Action::requeue(Duration::from_secs(1 << (*count).min(8)))
}

/// The objects of one kind in one of the watched namespaces, or in all.
fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    namespace.map_or_else(|| Api::all(client.clone()), |namespace| Api::namespaced(client.clone(), namespace))
}

/// The store of watched runs, and the future that reconciles those of one namespace, or of all, until `shutdown`. `triggers`
/// are runs whose reports changed.
pub fn run(
    ctx: &Arc<Context>,
    namespace: Option<&str>,
    triggers: impl Stream<Item = (String, String)> + Send + 'static,
    shutdown: CancellationToken,
) -> (RunStore, impl Future<Output = ()> + Send) {
    let client = &ctx.client;
    let ours = watcher::Config::default().labels(&format!("{}={MANAGER}", names::MANAGED_BY));
    let controller = Controller::new(api::<Watched>(client, namespace), watcher::Config::default());
    let store = controller.store();
    let known = store.clone();
    let waiting = move || {
        let open = |run: &Arc<Watched>| run.0.as_ref().is_ok_and(|run| run.status.as_ref().is_none_or(|status| status.spec_hash.is_none()));
        store.state().iter().filter(|run| open(run)).map(|run| ObjectRef::from_obj(run.as_ref())).collect::<Vec<_>>()
    };
    let also_waiting = waiting.clone();
    let by_label = |labels: &std::collections::BTreeMap<String, String>, namespace: Option<String>| {
        Some(ObjectRef::<Watched>::new(labels.get(names::RUN)?).within(&namespace?))
    };
    let reconciles = controller
        .with_config(controller::Config::default().concurrency(CONCURRENCY))
        .watches(api::<Job>(client, namespace), ours.clone(), move |job| by_label(job.labels(), job.namespace()))
        .watches(api::<Pod>(client, namespace), ours, move |pod| by_label(pod.labels(), pod.namespace()))
        .watches(Api::<FinetuneModel>::all(client.clone()), watcher::Config::default(), move |_| waiting())
        .watches(Api::<FinetuneRuntime>::all(client.clone()), watcher::Config::default(), move |_| also_waiting())
        .reconcile_on(triggers.map(|(namespace, name)| ObjectRef::<Watched>::new(&name).within(&namespace)))
        .graceful_shutdown_on(shutdown.cancelled_owned())
        .run(reconcile, error_policy, ctx.clone())
        .for_each(|result| async move {
            match result {
                Ok(_) | Err(controller::Error::ObjectNotFound(_)) => {}
                Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "reconcile"),
            }
        });
    (known, reconciles)
}
