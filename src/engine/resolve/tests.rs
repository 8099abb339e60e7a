use super::*;
use crate::api::FinetuneRun;
use serde_json::{Value, json};

struct Case {
    spec: FinetuneRunSpec,
    model: FinetuneModelSpec,
    runtime: FinetuneRuntimeSpec,
    defaults: NamespaceDefaults,
    settings: Settings,
}

impl Case {
    fn new() -> Self {
        Self {
            spec: FinetuneRun::sample().spec,
            model: FinetuneModelSpec::sample(),
            runtime: FinetuneRuntimeSpec::sample(),
            defaults: NamespaceDefaults::default(),
            settings: Settings::sample(),
        }
    }

    /// The sample run with these fields set.
    fn with(fields: &Value) -> Self {
        let mut spec = serde_json::to_value(Self::new().spec).unwrap();
        for (key, value) in fields.as_object().unwrap() {
            spec[key] = value.clone();
        }
        Self { spec: serde_json::from_value(spec).unwrap(), ..Self::new() }
    }

    fn on(mut self, size: Value) -> Self {
        self.model.compute = vec![serde_json::from_value(size).unwrap()];
        self
    }

    fn resolve(&self) -> Result<Resolved, Refusal> {
        resolve(&Request {
            run: "sample",
            namespace: "team-a",
            spec: &self.spec,
            model_object: "tiny-llama",
            model: &self.model,
            runtime_object: "llm-foundry",
            runtime: &self.runtime,
            defaults: &self.defaults,
            settings: &self.settings,
        })
    }

    fn refusal(&self) -> (&'static str, &'static str, String) {
        let refusal = self.resolve().unwrap_err();
        (refusal.reason, refusal.field, refusal.message)
    }
}

fn mlflow() -> Value {
    json!({"mlflow": {}})
}

fn h100(nodes: i32, gpus_per_node: i32) -> Value {
    json!({"nodes": nodes, "gpusPerNode": gpus_per_node, "gpuType": "H100", "gpuMemoryGib": 80, "globalBatchSize": 64})
}

#[test]
fn a_silent_spec_takes_everything_from_the_model_and_the_runtime() {
    let expected = Resolved {
        model: "tiny-llama".into(),
        runtime: "llm-foundry".into(),
        image: "trainer@sha256:00".into(),
        weights: "s3://models/tiny-llama".into(),
        context_length: 256,
        training_duration: "1ep".into(),
        interval: None,
        nodes: 1,
        gpus_per_node: 0,
        gpu_type: None,
        global_batch_size: 8,
        precision: "fp32".into(),
        ..Resolved::default()
    };
    assert_eq!(Case::new().resolve(), Ok(expected));
}

#[test]
fn a_spec_that_speaks_is_followed() {
    let mut case = Case::with(&json!({
        "contextLength": 128, "trainingDuration": "1_000ba", "registerTo": "main.models", "compute": {"nodes": 2, "gpuType": "H200"},
        "experimentTracker": {"mlflow": {"trackingUri": "http://mlflow.demo-services.svc:5000", "experimentPath": "/mine"}},
        "s3": {"endpointUrl": "http://s3.demo-services.svc:9000", "region": "us-east-1"}, "secrets": [{"name": "mine", "kind": "s3"}]
    }))
    .on(h100(1, 8));
    case.defaults = serde_json::from_value(json!({
        "secrets": [{"name": "theirs", "kind": "s3"}, {"name": "hub", "kind": "hf"}], "s3": {"endpointUrl": "http://other"}, "mlflowTrackingUri": "http://other"
    }))
    .unwrap();
    let expected = Resolved {
        model: "tiny-llama".into(),
        runtime: "llm-foundry".into(),
        image: "trainer@sha256:00".into(),
        weights: "s3://models/tiny-llama".into(),
        context_length: 128,
        training_duration: "1000ba".into(),
        interval: None,
        nodes: 2,
        gpus_per_node: 8,
        gpu_type: Some("H200".into()),
        global_batch_size: 64,
        precision: "amp_bf16".into(),
        register_to: Some("main.models.sample".into()),
        experiment_path: Some("/mine".into()),
        tracking_uri: Some("http://mlflow.demo-services.svc:5000".into()),
        s3_endpoint_url: Some("http://s3.demo-services.svc:9000".into()),
        s3_region: Some("us-east-1".into()),
        secrets: vec!["mine".into(), "hub".into()],
    };
    assert_eq!(case.resolve(), Ok(expected));
}

#[test]
fn the_tracker_and_the_store_come_from_the_namespace_and_then_from_the_operator() {
    let mut case = Case::with(&json!({"experimentTracker": mlflow()}));
    let got = case.resolve().unwrap();
    assert_eq!((got.experiment_path.as_deref(), got.tracking_uri.as_deref()), (Some("/finetune/team-a/sample"), Some("databricks")));
    case.defaults = serde_json::from_value(json!({"mlflowTrackingUri": "http://mlflow.example.com", "s3": {"region": "eu-west-1"}})).unwrap();
    let got = case.resolve().unwrap();
    assert_eq!((got.tracking_uri.as_deref(), got.s3_region.as_deref()), (Some("http://mlflow.example.com"), Some("eu-west-1")));
    let wandb_only = Case::with(&json!({"experimentTracker": {"wandb": {"project": "p", "entity": "e"}}})).resolve().unwrap();
    assert_eq!((wandb_only.experiment_path, wandb_only.tracking_uri), (None, None));
}

#[test]
fn a_context_that_is_too_long_is_refused_with_both_numbers() {
    let expected = "spec.contextLength is 9000, but FinetuneModel tiny-llama (demo/tiny-llama) supports at most 512: set 512 or less";
    assert_eq!(Case::with(&json!({"contextLength": 9000})).refusal(), ("ContextTooLong", "spec.contextLength", expected.into()));
}

#[test]
fn a_context_or_task_without_a_size_says_which_sizes_there_are() {
    let size = json!({"taskTypes": ["INSTRUCTION_FINETUNE"], "maxContextLength": 300, "gpusPerNode": 0, "globalBatchSize": 8, "microbatchSize": 8, "precision": "fp32"});
    let expected = "spec.contextLength is 400, but FinetuneModel tiny-llama has compute sizes for INSTRUCTION_FINETUNE up to 300 only: \
                    set 300 or less, or ask the administrator for a size";
    assert_eq!(Case::with(&json!({"contextLength": 400})).on(size.clone()).refusal(), ("NoComputeSize", "spec.contextLength", expected.into()));
    let expected = "spec.taskType is CHAT_COMPLETION, but FinetuneModel tiny-llama has no compute size for it: ask the administrator for one, or choose another model";
    assert_eq!(Case::with(&json!({"taskType": "CHAT_COMPLETION"})).on(size).refusal(), ("NoComputeSize", "spec.taskType", expected.into()));
}

#[test]
fn a_batch_that_does_not_divide_is_refused_with_all_numbers() {
    let expected = "spec.compute: 1 nodes x 3 GPUs are 3 processes, and the globalBatchSize of FinetuneModel tiny-llama, 64, is not a multiple of 3: \
                    choose nodes and gpusPerNode whose product divides 64";
    let case = Case::with(&json!({"compute": {"gpusPerNode": 3}})).on(h100(1, 8));
    assert_eq!(case.refusal(), ("BatchSizeNotDivisible", "spec.compute", expected.into()));
    assert_eq!(Case::new().on(h100(1, 3)).refusal().1, "spec.model", "the table itself is wrong");
}

#[test]
fn training_without_gpus_needs_a_size_for_cpus() {
    let case = Case::with(&json!({"compute": {"gpusPerNode": 0}})).on(h100(1, 8));
    let expected = "spec.compute.gpusPerNode is 0, but FinetuneModel tiny-llama trains in amp_bf16 with microbatchSize auto, which needs a GPU: \
                    set gpusPerNode to 1 or more; a size for CPUs has precision fp32 and a microbatchSize";
    assert_eq!(case.refusal(), ("InvalidCompute", "spec.compute.gpusPerNode", expected.into()));
    assert_eq!(Case::with(&json!({"compute": {"gpuType": "H100"}})).refusal().1, "spec.compute.gpuType");
}

#[test]
fn a_model_that_cannot_fit_is_refused_and_told_what_would_do() {
    let mut case = Case::with(&json!({"contextLength": 256})).on(h100(1, 8));
    case.model.parameters = 70_000_000_000;
    let expected = "spec.compute: FinetuneModel tiny-llama with 70000000000 parameters at contextLength 256 needs at least 101 GiB on each of 8 GPUs, \
                    and each has 80 GiB: 16 GPUs of that size (spec.compute.nodes times gpusPerNode) would do";
    assert_eq!(case.refusal(), ("DoesNotFit", "spec.compute", expected.into()));
    case.spec.compute = serde_json::from_value(json!({"nodes": 2})).unwrap();
    assert_eq!(case.resolve().map(|resolved| resolved.nodes), Ok(2));
}

#[test]
fn the_fit_check_is_left_out_where_the_memory_of_the_gpus_is_unknown() {
    let mut case = Case::with(&json!({"compute": {"gpuType": "B200"}})).on(h100(1, 8));
    case.model.parameters = 70_000_000_000;
    assert!(case.resolve().is_ok());
    case.model.compute.push(serde_json::from_value(json!({"gpusPerNode": 8, "gpuType": "B200", "gpuMemoryGib": 40, "globalBatchSize": 64})).unwrap());
    assert_eq!(case.refusal().0, "DoesNotFit", "another row of the table knows that type");
}

#[test]
fn durations_that_slip_past_the_schema_are_refused() {
    for field in ["trainingDuration", "checkpointEvery"] {
        let (reason, at, message) = Case::with(&json!({field: "10 epochs"})).refusal();
        assert_eq!((reason, at), ("InvalidDuration", if field == "trainingDuration" { "spec.trainingDuration" } else { "spec.checkpointEvery" }));
        assert_eq!(
            message,
            format!(
                "spec.{field}: \"10 epochs\" is not a duration: write a whole number and ep (epochs), ba (batches) or tok (tokens), for example 3ep or 1_000_000tok"
            )
        );
    }
}

#[test]
fn an_endpoint_is_refused_wherever_it_is_said() {
    let metadata = "http://169.254.169.254";
    for (case, field, said_in) in [
        (
            Case::with(&json!({"s3": {"endpointUrl": metadata}})),
            "spec.s3.endpointUrl",
            "spec.s3.endpointUrl names 169.254.169.254, a link-local address",
        ),
        (
            Case::with(&json!({"experimentTracker": {"mlflow": {"trackingUri": metadata}}})),
            "spec.experimentTracker.mlflow.trackingUri",
            "spec.experimentTracker.mlflow.trackingUri names 169.254.169.254",
        ),
        (
            Case { defaults: serde_json::from_value(json!({"s3": {"endpointUrl": metadata}})).unwrap(), ..Case::new() },
            "spec.s3.endpointUrl",
            "ConfigMap finetune-defaults of this namespace, s3.endpointUrl names 169.254.169.254",
        ),
        (
            Case {
                defaults: serde_json::from_value(json!({"mlflowTrackingUri": metadata})).unwrap(),
                ..Case::with(&json!({"experimentTracker": mlflow()}))
            },
            "spec.experimentTracker.mlflow.trackingUri",
            "ConfigMap finetune-defaults of this namespace, mlflowTrackingUri names 169.254.169.254",
        ),
    ] {
        let (reason, at, message) = case.refusal();
        assert_eq!((reason, at), ("EndpointNotAllowed", field));
        assert!(message.starts_with(said_in), "{message}");
    }
}

#[test]
fn an_allow_list_that_does_not_name_the_host_is_quoted() {
    let mut case = Case::with(&json!({"s3": {"endpointUrl": "https://evil.example/x"}}));
    case.settings.allowed_endpoints = vec!["s3.example.com".into()];
    let expected = "spec.s3.endpointUrl names evil.example, which is not among the hosts that the administrator allows (s3.example.com): name one of them, or ask for it to be added";
    assert_eq!(case.refusal(), ("EndpointNotAllowed", "spec.s3.endpointUrl", expected.into()));
}

#[test]
fn weights_in_shards_need_more_than_one_gpu() {
    let case = |path: &str, gpus: i32| Case::with(&json!({"customWeightsPath": path})).on(h100(1, gpus));
    let expected = "spec.customWeightsPath names no .pt file, so a checkpoint in shards, which a single process cannot load: \
                    name a .pt file, or set spec.compute to more than one GPU";
    assert_eq!(case("s3://out/old/checkpoints/ep1-ba20", 1).refusal(), ("CustomWeightsFormat", "spec.customWeightsPath", expected.into()));
    for (path, gpus) in [
        ("s3://out/old/checkpoints/ep1-ba20", 8),
        ("s3://out/old/ep1-ba20-rank0.pt", 1),
        ("s3://out/old/latest-rank0.pt.symlink", 1),
        ("s3://out/old/ep1.pt", 8),
    ] {
        assert!(case(path, gpus).resolve().is_ok(), "{path} on {gpus}");
    }
}

#[test]
fn prompts_that_would_not_fit_into_a_config_map_are_refused_with_both_numbers() {
    let tracker = json!({"wandb": {"project": "p", "entity": "e"}});
    let prompts = vec!["x".repeat(4096); 32];
    assert!(Case::with(&json!({"experimentTracker": tracker, "evalPrompts": prompts})).resolve().is_ok());
    let prompts = vec!["😀".repeat(4096); 32];
    let expected = "spec.evalPrompts has 524288 bytes together, and at most 262144 are possible: shorten or remove some";
    assert_eq!(
        Case::with(&json!({"experimentTracker": tracker, "evalPrompts": prompts})).refusal(),
        ("EvalPromptsTooLong", "spec.evalPrompts", expected.into())
    );
}

#[test]
fn a_registry_needs_a_tracker() {
    let (reason, field, _) = Case::with(&json!({"registerTo": "a.b"})).refusal();
    assert_eq!((reason, field), ("RegistryWithoutTracker", "spec.registerTo"));
}

#[test]
fn a_runtime_that_overrides_what_follows_from_the_run_is_refused() {
    let mut case = Case::new();
    for (defaults, message) in [
        (
            json!({"max_duration": "9ep"}),
            "max_duration cannot be set there: it follows from the run and the model, or the engine has no such setting",
        ),
        (json!({"optimizer": {"lr": 1}}), "optimizer.lr cannot be set there: it follows from the run and the model"),
        (json!({"optimizer": 1}), "optimizer must be a map: settings below it follow from the run and the model"),
    ] {
        case.runtime.engine_defaults = serde_json::from_value(defaults).unwrap();
        let expected = format!("FinetuneRuntime llm-foundry, spec.engineDefaults: {message}; ask the administrator to change it");
        assert_eq!(case.refusal(), ("InvalidRuntime", "spec.model", expected));
    }
    case.runtime.engine_defaults = serde_json::from_value(json!({"optimizer": {"betas": [0.9, 0.99]}, "callbacks": {"lr_monitor": {}}})).unwrap();
    assert!(case.resolve().is_ok());
}

#[test]
fn the_closest_name_is_found_and_a_stranger_has_none() {
    let known = ["meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B", "mosaicml/mpt-7b", "Qwen/Qwen2.5-7B"];
    for (wanted, expected) in [
        ("meta-llama/Llama-3.1-8B-Instrct", Some("meta-llama/Llama-3.1-8B-Instruct")),
        ("mpt-7b", Some("mosaicml/mpt-7b")),
        ("qwen2.5-7b", Some("Qwen/Qwen2.5-7B")),
        ("META-LLAMA/LLAMA-3.1-8B", Some("meta-llama/Llama-3.1-8B")),
        ("zzz", None),
    ] {
        assert_eq!(closest(wanted, known.into_iter()), expected, "{wanted}");
    }
    assert_eq!(closest("x", std::iter::empty()), None);
}
