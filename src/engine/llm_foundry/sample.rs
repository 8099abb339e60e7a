//! Runs for the tests of the engine compiler.

use serde_json::{Value, json};

use super::Training;
use crate::api::defaults::NamespaceDefaults;
use crate::api::status::{DataSet, DataStatus, Resolved};
use crate::api::{FinetuneModelSpec, FinetuneRunSpec, FinetuneRuntimeSpec};
use crate::controller::settings::Settings;
use crate::engine::{Request, resolve};

/// Owns what a `Training` borrows.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) spec: FinetuneRunSpec,
    pub(super) model: FinetuneModelSpec,
    pub(super) runtime: FinetuneRuntimeSpec,
    pub(super) resolved: Resolved,
    pub(super) data: DataStatus,
}

impl Sample {
    /// The run `my-run` with these fields of its spec, on the sample model.
    pub(super) fn new(fields: &Value) -> Self {
        Self::on(FinetuneModelSpec::sample(), &json!({}), fields)
    }

    /// The same with these engine defaults.
    pub(super) fn tuned(engine_defaults: &Value, fields: &Value) -> Self {
        Self::on(FinetuneModelSpec::sample(), engine_defaults, fields)
    }

    /// A model of the hub on `nodes` nodes of eight GPUs.
    pub(super) fn on_gpus(nodes: i32, gpus_per_node: i32, fields: &Value) -> Self {
        let model = serde_json::from_value(json!({
            "name": "meta-llama/Llama-3.1-8B-Instruct", "displayName": "Llama 3.1 8B Instruct", "maxContextLength": 131_072, "weights": "hf://meta-llama/Llama-3.1-8B-Instruct",
            "revision": "0e9e39f249a16976918f6564b8830bc894c89659", "padToken": "<|finetune_right_pad_id|>", "gated": true, "parameters": 8_030_261_248_i64, "runtime": "llm-foundry",
            "compute": [{"nodes": nodes, "gpusPerNode": gpus_per_node, "gpuType": "H100", "globalBatchSize": 64, "cpus": 96, "memoryGib": 900, "scratchGib": 400}]
        }));
        Self::on(model.unwrap(), &json!({}), fields)
    }

    pub(super) fn on(model: FinetuneModelSpec, engine_defaults: &Value, fields: &Value) -> Self {
        let mut spec = json!({"model": model.name, "trainDataPath": "s3://data/train.jsonl", "saveFolder": "s3://out/team-a/"});
        for (key, value) in fields.as_object().unwrap() {
            spec[key] = value.clone();
        }
        let spec: FinetuneRunSpec = serde_json::from_value(spec).unwrap();
        let runtime =
            FinetuneRuntimeSpec { engine_defaults: serde_json::from_value(engine_defaults.clone()).unwrap(), ..FinetuneRuntimeSpec::sample() };
        let resolved = resolve(&Request {
            run: "my-run",
            namespace: "team-a",
            spec: &spec,
            model_object: "model",
            model: &model,
            runtime_object: "llm-foundry",
            runtime: &runtime,
            defaults: &NamespaceDefaults::default(),
            settings: &Settings::sample(),
        });
        let set = |key: &str, samples| DataSet { samples, tokens: 9000, mds: format!("s3://out/team-a/mds/{key}"), ..DataSet::default() };
        let eval = spec.eval_data_path.is_some().then(|| set("eval-key", 40));
        let data = DataStatus { train: Some(set("train-key", 400)), eval, packing_ratio: Some(3.5), ..DataStatus::default() };
        Self { spec, model, runtime, resolved: resolved.unwrap(), data }
    }

    pub(super) fn training(&self) -> Training<'_> {
        Training {
            run: "my-run",
            uid: "5f0c7c3e-0000-4000-8000-000000000001",
            spec: &self.spec,
            model: &self.model,
            runtime: &self.runtime,
            resolved: &self.resolved,
            data: &self.data,
        }
    }
}
