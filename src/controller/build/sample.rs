//! Runs for the tests of the builders.

use serde_json::{Value, json};

use super::{Converted, Stage, Subject, convert, preflight, register, train};
use crate::api::FinetuneRun;
use crate::api::status::{DataSet, DataStatus, Export, MlflowRun, Resolved};
use crate::controller::settings::Settings;
use crate::controller::snapshot::Snapshot;

/// Owns what a `Subject` borrows.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) run: FinetuneRun,
    pub(super) resolved: Resolved,
    pub(super) snapshot: Snapshot,
    pub(super) settings: Settings,
}

impl Sample {
    /// The small run of the API's own samples, on one node without accelerators.
    pub(super) fn new() -> Self {
        let snapshot = Snapshot::sample();
        let resolved = Resolved {
            model: "tiny-llama".into(),
            runtime: "llm-foundry".into(),
            image: snapshot.runtime.image.clone(),
            weights: snapshot.model.weights.clone(),
            context_length: 256,
            training_duration: "1ep".into(),
            nodes: 1,
            global_batch_size: 8,
            precision: "fp32".into(),
            ..Resolved::default()
        };
        Self { run: FinetuneRun::sample(), resolved, snapshot, settings: Settings::sample() }
    }

    /// With every optional part that a run can have.
    pub(super) fn full() -> Self {
        let mut sample = Self::new();
        sample.edit_run(&json!({
            "evalDataPath": "pvc://datasets/eval.jsonl", "evalPrompts": ["What is 2 + 2?", "on"], "customWeightsPath": "s3://out/team-a/older/checkpoints/ep1-ba10-rank0.pt",
            "saveFolder": "s3://out/team-a/", "contextLength": 512, "registerTo": "main.models",
            "experimentTracker": {"mlflow": {"trackingUri": "http://mlflow.tracking.svc:5000"}, "wandb": {"project": "p", "entity": "e"}},
        }));
        sample.snapshot.secrets = serde_json::from_value(json!([
            {"name": "s3-credentials", "kind": "s3", "profile": "team"}, {"name": "google", "kind": "gcp"}, {"name": "azure", "kind": "azure"},
            {"name": "oracle", "kind": "oci"}, {"name": "databricks", "kind": "databricks"}, {"name": "hub", "kind": "hf"},
            {"name": "wandb", "kind": "wandb"}, {"name": "mlflow", "kind": "mlflow"}, {"name": "extra", "kind": "env", "key": "MY_TOKEN"},
            {"name": "extra", "kind": "mounted", "key": "license.txt"}
        ]))
        .unwrap();
        sample.resolved = Resolved {
            context_length: 512,
            register_to: Some("main.models.sample".into()),
            experiment_path: Some("/finetune/team-a/sample".into()),
            tracking_uri: Some("http://mlflow.tracking.svc:5000".into()),
            s3_endpoint_url: Some("http://s3.store.svc:9000".into()),
            s3_region: Some("us-east-1".into()),
            ..sample.resolved
        };
        sample
    }

    /// The full run on `nodes` nodes of 8 GPUs, in a queue, under a runtime with overrides.
    pub(super) fn on_gpus(nodes: i32) -> Self {
        let mut sample = Self::full();
        sample.edit_run(&json!({"scheduling": {"priority": "low", "queue": "gpus", "maxDurationHours": 1.5}}));
        sample.resolved =
            Resolved { nodes, gpus_per_node: 8, gpu_type: Some("NVIDIA-H100-80GB-HBM3".into()), precision: "amp_bf16".into(), ..sample.resolved };
        sample.snapshot.model.compute[0].memory_gib = 512;
        sample.snapshot.runtime.pod_overrides = serde_json::from_value(overrides()).unwrap();
        sample
    }

    /// Sets fields of the run's spec.
    pub(super) fn edit_run(&mut self, fields: &Value) {
        let mut spec = serde_json::to_value(&self.run.spec).unwrap();
        spec.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        self.run.spec = serde_json::from_value(spec).unwrap();
    }

    pub(super) fn subject(&self) -> Subject<'_> {
        Subject {
            run: &self.run,
            name: self.run.metadata.name.as_deref().unwrap(),
            namespace: self.run.metadata.namespace.as_deref().unwrap(),
            uid: self.run.metadata.uid.as_deref().unwrap(),
            spec_hash: "0123456789abcdef0123456789abcdef",
            resolved: &self.resolved,
            snapshot: &self.snapshot,
            settings: &self.settings,
        }
    }

    /// One try at each stage.
    pub(super) fn stages(&self) -> [Stage; 4] {
        let subject = self.subject();
        [
            preflight(&subject, 2, true, Converted::default()),
            convert(&subject, 0, Converted::default()),
            train(&subject, 1, &data(), Some(&tracking()), Some("s3://out/team-a/sample/checkpoints/ep0-ba10-rank0.pt"), &engine()),
            register(&subject, 0, &export(), Some(&tracking())),
        ]
    }
}

/// One of each override.
pub(super) fn overrides() -> Value {
    json!({
        "nodeSelector": {"pool": "training"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}]}}},
        "volumes": [{"name": "ca", "configMap": {"name": "company-ca"}}, {"name": "cache", "persistentVolumeClaim": {"claimName": "hub-cache"}}],
        "volumeMounts": [{"name": "ca", "mountPath": "/etc/ssl/company", "readOnly": true}, {"name": "cache", "mountPath": "/scratch/hf"}],
        "env": [{"name": "HTTPS_PROXY", "value": "http://proxy.example:3128"}],
        "imagePullSecrets": [{"name": "registry"}],
        "runtimeClassName": "nvidia", "schedulerName": "packer", "priorityClassName": "training",
        "labels": {"team": "ml"}, "annotations": {"kueue.x-k8s.io/podset-preferred-topology": "rack"},
    })
}

pub(super) fn data() -> DataStatus {
    let train =
        DataSet { source: "s3://data/train.jsonl".into(), digest: "sha256:12ab".into(), mds: "s3://out/team-a/mds/k".into(), ..DataSet::default() };
    DataStatus { train: Some(train), ..DataStatus::default() }
}

pub(super) fn tracking() -> MlflowRun {
    MlflowRun { experiment_id: "1".into(), run_id: "f00d".into(), url: "http://mlflow.tracking.svc:5000/#/experiments/1/runs/f00d".into() }
}

pub(super) fn export() -> Export {
    Export { uri: "s3://out/team-a/sample/hf_checkpoints/huggingface/ba60".into(), size_bytes: Some(16_060_522_240) }
}

pub(super) fn engine() -> Value {
    json!({"max_duration": "3ep", "optimizer": {"lr": 5e-7, "betas": [0.9, 0.95]}, "callbacks": {}, "seed": 17, "prompts": ["on", "1e3", "two\nlines"]})
}
