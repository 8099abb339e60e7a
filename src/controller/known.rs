//! What the report endpoint asks of the runs, answered from the controller's own store: reads memory only.

use std::sync::{Arc, OnceLock};

use futures::FutureExt;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;

use super::reconcile::RunStore;
use crate::api::FinetuneRun;
use crate::api::status::{Phase, Stage};
use crate::report::{CurrentRun, Runs};

/// The runs of all watched namespaces, once this replica leads.
pub struct KnownRuns(Arc<OnceLock<Vec<RunStore>>>);

impl KnownRuns {
    /// `stores` is filled when the controllers start.
    #[must_use]
    pub fn new(stores: Arc<OnceLock<Vec<RunStore>>>) -> Self {
        Self(stores)
    }
}

impl Runs for KnownRuns {
    fn ready(&self) -> bool {
        self.0.get().is_some_and(|stores| stores.iter().all(|store| store.wait_until_ready().now_or_never().is_some_and(|ready| ready.is_ok())))
    }

    fn current(&self, namespace: &str, name: &str) -> Option<CurrentRun> {
        let reference = ObjectRef::new(name).within(namespace);
        let run = self.0.get()?.iter().find_map(|store| store.get(&reference))?;
        run.0.as_ref().ok().map(current)
    }
}

fn current(run: &FinetuneRun) -> CurrentRun {
    let status = run.status.clone().unwrap_or_default();
    let training = status.current_job.as_ref().filter(|job| job.stage == Stage::Train);
    CurrentRun {
        uid: run.uid().unwrap_or_default(),
        attempt: status.attempt.unwrap_or(-1),
        job_uid: training.and_then(|job| job.uid.clone()),
        outputs: format!("{}/{}", run.spec.save_folder.trim_end_matches('/'), run.name_any()),
        ended: status.phase.is_some_and(Phase::is_sink) || (status.attempt.is_some() && training.is_none()),
    }
}
