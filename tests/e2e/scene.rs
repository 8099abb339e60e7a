//! What the trials share: the cluster, runs made from the examples, and waiting for a condition.

use std::path::Path;
use std::time::Duration;

use finetune_operator::api::status::Phase;
use finetune_operator::api::{FinetuneRun, FinetuneRunStatus};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::bed::{Bed, Result, TEAM};
use crate::follow::Follower;
use crate::tracker::Tracker;

/// Long enough for all trainings of this test one after the other.
pub(crate) const TRAINING: Duration = Duration::from_secs(1500);
/// A preflight on a busy machine.
pub(crate) const PREFLIGHT: Duration = Duration::from_secs(240);

pub(crate) struct Scene {
    pub(crate) bed: Bed,
    pub(crate) tracker: Tracker,
}

impl Scene {
    pub(crate) fn new(bed: Bed) -> Self {
        let tracker = Tracker::new(&bed.mlflow);
        Self { bed, tracker }
    }

    pub(crate) fn runs(&self) -> Api<FinetuneRun> {
        Api::namespaced(self.bed.client.clone(), TEAM)
    }

    /// Makes a run from an example, under another name and with `changes` merged into its spec.
    pub(crate) async fn create(&self, example: &str, name: &str, changes: Value) -> Result<FinetuneRun> {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(format!("{example}.yaml"));
        let mut run: FinetuneRun = serde_saphyr::from_str(&std::fs::read_to_string(file)?)?;
        run.metadata.name = Some(name.to_owned());
        run.metadata.namespace = Some(TEAM.to_owned());
        let mut spec = serde_json::to_value(&run.spec)?;
        for (field, value) in changes.as_object().into_iter().flatten() {
            if value.is_null() {
                spec.as_object_mut().ok_or("the spec is a map")?.remove(field);
            } else {
                spec[field] = value.clone();
            }
        }
        run.spec = serde_json::from_value(spec)?;
        Ok(self.runs().create(&PostParams::default(), &run).await?)
    }

    /// Waits until `done` holds for the run's status.
    pub(crate) async fn until(&self, name: &str, limit: Duration, mut done: impl FnMut(&FinetuneRunStatus) -> bool) -> Result<FinetuneRun> {
        let mut follower = Follower::new(&self.bed, true);
        let runs = follower.until(&[name], limit, |all| done(&all[0])).await?;
        runs.into_iter().next().ok_or_else(|| "no run".into())
    }

    /// Waits until the run has ended for good.
    pub(crate) async fn end(&self, name: &str, limit: Duration) -> Result<FinetuneRun> {
        self.until(name, limit, |status| status.phase.is_some_and(Phase::is_sink)).await
    }

    pub(crate) async fn suspend(&self, name: &str, suspend: bool) -> Result<()> {
        let patch = Patch::Merge(json!({"spec": {"suspend": suspend}}));
        self.runs().patch(name, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    /// Jobs of a stage of a run.
    pub(crate) async fn jobs(&self, run: &str, stage: &str) -> Result<Vec<Job>> {
        let jobs: Api<Job> = Api::namespaced(self.bed.client.clone(), TEAM);
        Ok(jobs.list(&selector(&format!("finetune.dev/run={run},finetune.dev/stage={stage}"))).await?.items)
    }

    /// Pods of a run.
    pub(crate) async fn pods(&self, run: &str) -> Result<Vec<Pod>> {
        let pods: Api<Pod> = Api::namespaced(self.bed.client.clone(), TEAM);
        Ok(pods.list(&selector(&format!("finetune.dev/run={run}"))).await?.items)
    }

    /// Polls `holds` until it does.
    pub(crate) async fn wait<F, Fut>(&self, what: &str, limit: Duration, mut holds: F) -> Result<()>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<bool>>,
    {
        let deadline = tokio::time::Instant::now() + limit;
        while !holds().await? {
            if tokio::time::Instant::now() > deadline {
                return Err(format!("after {} s still not: {what}", limit.as_secs()).into());
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        Ok(())
    }

    /// Prints what a person would look at after a failure.
    pub(crate) async fn explain(&self) {
        for arguments in [
            vec!["get", "finetuneruns,jobs,pods", "-A", "-o", "wide"],
            vec!["get", "events", "-n", TEAM, "--sort-by=.lastTimestamp"],
            vec!["logs", "-n", "finetune-system", "deployment/finetune-operator", "--tail=100"],
        ] {
            match self.bed.kubectl(&arguments).await {
                Ok(text) => println!("$ kubectl {}\n{text}", arguments.join(" ")),
                Err(error) => println!("$ kubectl {}: {error}", arguments.join(" ")),
            }
        }
        for run in self.runs().list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default() {
            println!("{}: {}", run.name_any(), serde_json::to_string(&run.status).unwrap_or_default());
        }
    }
}

fn selector(labels: &str) -> ListParams {
    ListParams::default().labels(labels)
}

/// The types of a run's events, in order.
pub(crate) fn event_types(status: &FinetuneRunStatus) -> Vec<&'static str> {
    status.events.iter().map(|event| event.type_.as_str()).collect()
}

/// Which conditions are true.
pub(crate) fn true_conditions(status: &FinetuneRunStatus) -> Vec<&str> {
    status.conditions.iter().filter(|c| c.status == "True").map(|c| c.type_.as_str()).collect()
}
