//! A model cluster for tests: it applies plans, or only a part of them, and lets Jobs end as a test wants.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::{Change, Plan, decide};
use crate::api::defaults::NamespaceDefaults;
use crate::api::status::{FinetuneRunStatus, Phase, Stage};
use crate::api::{FinetuneModelSpec, FinetuneRun, FinetuneRuntimeSpec};
use crate::controller::facts::{Container, JobFacts, JobSeen, Outcome, PodFacts};
use crate::controller::observed::{Catalogue, Observed, ServiceAccountSeen, SnapshotSeen};
use crate::controller::settings::Settings;
use crate::controller::snapshot::Snapshot;

/// How much of a plan is written before the operator dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writes {
    Nothing,
    ClusterOnly,
    All,
}

pub(super) struct ModelJob {
    pub(super) facts: JobFacts,
    pub(super) pod: PodFacts,
}

pub(super) struct Cluster {
    pub(super) run: FinetuneRun,
    pub(super) now: Timestamp,
    pub(super) snapshot: Option<Snapshot>,
    pub(super) jobs: BTreeMap<String, ModelJob>,
    /// Every Job that was ever made, by name.
    pub(super) created: BTreeMap<String, u32>,
    pub(super) catalogue: Catalogue,
    /// Preflight passed for this spec at least once.
    pub(super) proved: bool,
}

impl Cluster {
    pub(super) fn new(run: FinetuneRun) -> Self {
        let model = FinetuneModelSpec::sample();
        Self {
            run,
            now: "2026-01-01T00:00:00Z".parse().unwrap(),
            snapshot: None,
            jobs: BTreeMap::new(),
            created: BTreeMap::new(),
            catalogue: Catalogue {
                known_models: vec![model.name.clone()],
                model: Some(("tiny-llama".into(), model)),
                runtime: Some(("llm-foundry".into(), FinetuneRuntimeSpec::sample())),
                defaults: Ok(NamespaceDefaults::default()),
            },
            proved: false,
        }
    }

    /// A run that registers its model.
    pub(super) fn registering() -> Self {
        let mut run = FinetuneRun::sample();
        run.spec.register_to = Some("main.models.sample".into());
        run.spec.experiment_tracker = serde_json::from_value(json!({"mlflow": {"trackingUri": "http://mlflow.demo-services.svc:5000"}})).unwrap();
        Self::new(run)
    }

    /// A run whose training data are a table.
    pub(super) fn on_a_table() -> Self {
        let mut run = FinetuneRun::sample();
        run.spec.train_data_path = "main.raw.rows".into();
        run.spec.data_prep_cluster_id = Some("0101-cluster".into());
        Self::new(run)
    }

    pub(super) fn status(&self) -> FinetuneRunStatus {
        self.run.status.clone().unwrap_or_default()
    }

    pub(super) fn observe(&self) -> Observed {
        let status = self.status();
        let current = status.current_job.as_ref().and_then(|current| self.jobs.get(&current.name));
        Observed {
            run: self.run.clone(),
            settings: Settings::sample(),
            now: self.now,
            ca_pem: "ca".into(),
            catalogue: Some(self.catalogue.clone()),
            snapshot: self.snapshot.clone().map_or(SnapshotSeen::Absent, |snapshot| SnapshotSeen::Own(Box::new(snapshot))),
            service_account: ServiceAccountSeen::Present { allowed: true },
            job: current.map_or(JobSeen::Absent, |job| JobSeen::Own(job.facts.clone())),
            pods: current.map(|job| job.pod.clone()).into_iter().collect(),
            report: None,
        }
    }

    /// One reconcile of which only `writes` reach the cluster.
    pub(super) fn step(&mut self, writes: Writes) -> Plan {
        let plan = decide(&self.observe());
        if writes != Writes::Nothing {
            self.change(&plan.change);
        }
        if writes == Writes::All {
            let mut status = plan.status.clone();
            if let (Change::CreateStage { stage, .. }, Some(job)) = (&plan.change, &mut status.current_job) {
                let made = self.jobs.get(stage.job.metadata.name.as_deref().unwrap_or_default());
                job.uid = made.map(|job| job.facts.uid.clone()).or(job.uid.take());
            }
            self.run.status = Some(status);
        }
        plan
    }

    fn change(&mut self, change: &Change) {
        match change {
            Change::Keep => {}
            Change::CreateSnapshot(map) => {
                let text = &map.data.as_ref().unwrap()[crate::controller::snapshot::KEY];
                self.snapshot.get_or_insert(serde_json::from_str(text).unwrap());
            }
            Change::DeleteSnapshot(_) => self.snapshot = None,
            Change::CreateStage { stage, .. } => {
                let name = stage.job.metadata.name.clone().unwrap();
                if self.jobs.contains_key(&name) {
                    return;
                }
                *self.created.entry(name.clone()).or_default() += 1;
                let facts = JobFacts { uid: format!("uid-of-{name}"), deleting: false, suspended: false, outcome: Outcome::Open };
                let pod = PodFacts {
                    name: format!("{name}-pod"),
                    node: Some("node-1".into()),
                    scheduled_at: Some(self.now),
                    container: Container::Running(self.now),
                    ..PodFacts::default()
                };
                self.jobs.insert(name, ModelJob { facts, pod });
            }
            Change::DeleteJob { name, uid } => {
                if self.jobs.get(name).is_some_and(|job| job.facts.uid == *uid) {
                    self.jobs.remove(name);
                }
            }
        }
    }

    /// Steps with all writes until nothing changes any more; panics when that does not happen.
    pub(super) fn settle(&mut self) {
        for _ in 0..30 {
            let before = self.run.status.clone();
            let plan = self.step(Writes::All);
            if plan.change == Change::Keep && self.run.status == before {
                return;
            }
        }
        panic!("the run does not settle: {:?}", self.status());
    }

    pub(super) fn wait(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
    }

    pub(super) fn suspend(&mut self, suspend: bool) {
        self.run.spec.suspend = suspend;
        self.run.metadata.generation = self.run.metadata.generation.map(|generation| generation + 1);
    }

    pub(super) fn current(&self) -> Option<(Stage, String)> {
        self.status().current_job.map(|current| (current.stage, current.name)).filter(|(_, name)| self.jobs.contains_key(name))
    }

    /// The current Job's pod ends with this exit code and message.
    pub(super) fn end(&mut self, code: i32, message: &str) {
        let Some((stage, name)) = self.current() else { return };
        let now = self.now;
        let checks_only = self.status().current_job.is_some_and(|job| job.checks_only);
        if stage == Stage::Preflight && code == 0 && !checks_only {
            self.proved = true;
        }
        let Some(job) = self.jobs.get_mut(&name) else { return };
        job.pod.ended = true;
        job.pod.container = Container::Ended { code, reason: if code == 0 { "Completed" } else { "Error" }.into(), message: message.into(), at: now };
        job.facts.outcome = if code == 0 {
            Outcome::Complete(now)
        } else {
            let message = format!("Container main for pod team-a/{} failed with exit code {code} matching FailJob rule at index 0", job.pod.name);
            Outcome::Failed { reason: "PodFailurePolicy".into(), message, at: now }
        };
    }

    /// The current Job ends as its stage ends well.
    pub(super) fn end_well(&mut self) {
        let message = match self.current() {
            Some((Stage::Preflight, _)) => self.verdict(),
            Some((Stage::Convert, _)) => String::new(),
            Some((Stage::Train, _)) => farewell(),
            Some((Stage::Register, _)) => {
                json!({"runUid": "uid-1", "model": {"name": "main.models.sample", "version": "1", "uri": "models:/main.models.sample/1"}}).to_string()
            }
            None => return,
        };
        self.end(0, &message);
    }

    pub(super) fn verdict(&self) -> String {
        let hash = self.status().spec_hash.unwrap_or_default();
        json!({"version": 1, "stage": "preflight", "specHash": hash, "passed": true,
            "checks": [{"name": "Secrets", "passed": true}, {"name": "TrainRows", "passed": true}],
            "data": {"train": {"source": "s3://data/train.jsonl", "digest": "d", "rows": 80, "tokens": 900, "tooLong": 0, "dropped": 0, "bad": 0,
                     "samples": 80, "mds": "s3://out/team-a/mds/k"}, "packingRatio": 1.0, "cached": false},
            "mlflow": {"experimentId": "1", "runId": "r", "url": "http://mlflow/#/experiments/1/runs/r"}, "truncated": false})
        .to_string()
    }

    pub(super) fn refusal(&self, name: &str, class: &str, reason: &str) -> String {
        let hash = self.status().spec_hash.unwrap_or_default();
        json!({"version": 1, "stage": "preflight", "specHash": hash, "passed": false, "truncated": false,
            "checks": [{"name": name, "passed": false, "class": class, "reason": reason, "field": "spec.saveFolder", "message": "spec.saveFolder: no"}]})
        .to_string()
    }

    /// Somebody deletes the current Job and its pods.
    pub(super) fn lose_job(&mut self) {
        if let Some((_, name)) = self.current() {
            self.jobs.remove(&name);
        }
    }

    pub(super) fn phase(&self) -> Phase {
        self.status().phase.unwrap()
    }

    pub(super) fn event_types(&self) -> Vec<&'static str> {
        self.status().events.iter().map(|event| event.type_.as_str()).collect()
    }

    pub(super) fn open_jobs(&self) -> usize {
        self.jobs.values().filter(|job| job.facts.outcome == Outcome::Open).count()
    }
}

pub(super) fn farewell() -> String {
    json!({"runUid": "uid-1", "step": 10, "totalSteps": 10,
        "checkpoint": {"uri": "s3://out/team-a/sample/checkpoints/ep1-ba10-rank0.pt", "step": 10, "sizeBytes": 5},
        "hfCheckpoint": "s3://out/team-a/sample/hf_checkpoints/huggingface/ba10", "hfCheckpointBytes": 7})
    .to_string()
}
