//! From a run, its model, its runtime and its namespace's defaults to what is chosen where the spec is silent, or why not. Pure.

use crate::api::defaults::{self, NamespaceDefaults};
use crate::api::model::{ComputeSize, Precision};
use crate::api::run::S3;
use crate::api::status::Resolved;
use crate::api::training_duration::{NotADuration, TrainingDuration};
use crate::api::{FinetuneModelSpec, FinetuneRunSpec, FinetuneRuntimeSpec};
use crate::controller::build::overrides;
use crate::controller::settings::Settings;

use super::fit::{self, Load};
use super::{endpoint, llm_foundry, place, secrets, tuning};

const MOST_PROMPT_BYTES: usize = 256 * 1024;

/// Everything that decides what a run becomes.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Name of the run.
    pub run: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its spec.
    pub spec: &'a FinetuneRunSpec,
    /// Name of the model's object.
    pub model_object: &'a str,
    /// The model that `spec.model` names.
    pub model: &'a FinetuneModelSpec,
    /// Name of the runtime's object.
    pub runtime_object: &'a str,
    /// The runtime that the model names.
    pub runtime: &'a FinetuneRuntimeSpec,
    /// The namespace's defaults; empty where it has none.
    pub defaults: &'a NamespaceDefaults,
    /// The operator's settings.
    pub settings: &'a Settings,
}

/// Why a run cannot be accepted as it stands: the user's or the admin's to change, never tried again by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// One word for `status.reason`.
    pub reason: &'static str,
    /// Field that must change.
    pub field: &'static str,
    /// A sentence that names field, object and what to do.
    pub message: String,
}

impl Refusal {
    pub(super) fn new(reason: &'static str, field: &'static str, message: String) -> Self {
        Self { reason, field, message }
    }
}

/// The choices, or the first reason why there are none.
pub fn resolve(request: &Request) -> Result<Resolved, Refusal> {
    let Request { spec, model, runtime, settings, .. } = *request;
    let duration = duration("spec.trainingDuration", &spec.training_duration)?;
    if let Some(every) = &spec.checkpoint_every {
        self::duration("spec.checkpointEvery", every)?;
    }
    let context_length = context_length(request)?;
    let size = size(request, context_length)?;
    let compute = compute(request, size)?;
    fits(request, size, &compute, context_length)?;
    place::check(spec, &settings.allowed_endpoints)?;
    custom_weights(spec, world_size(compute.nodes, compute.gpus_per_node))?;
    prompts(spec)?;
    let store = store(request)?;
    let (experiment_path, tracking_uri) = tracker(request)?;
    if spec.registry_path().is_some() && tracking_uri.is_none() {
        let message =
            "spec.registerTo needs spec.experimentTracker.mlflow: the model is registered in that server's registry; add it, or remove registerTo"
                .to_owned();
        return Err(Refusal::new("RegistryWithoutTracker", "spec.registerTo", message));
    }
    let secrets = secrets::names(&request.defaults.secrets(spec))?;
    admins_part(request)?;
    Ok(Resolved {
        model: request.model_object.to_owned(),
        runtime: request.runtime_object.to_owned(),
        image: runtime.image.clone(),
        weights: model.weights.clone(),
        context_length,
        training_duration: duration.to_string(),
        interval: None,
        nodes: compute.nodes,
        gpus_per_node: compute.gpus_per_node,
        gpu_type: compute.gpu_type,
        global_batch_size: size.global_batch_size,
        precision: precision(size.precision).to_owned(),
        register_to: spec.registered_name(request.run),
        experiment_path,
        tracking_uri,
        s3_endpoint_url: store.endpoint_url,
        s3_region: store.region,
        secrets,
    })
}

/// The name among `known` that is most like `wanted`, if any is like it at all.
pub fn closest<'a>(wanted: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = wanted.to_lowercase();
    let last = |name: &str| name.rsplit('/').next().unwrap_or_default().to_owned();
    let likeness = |name: &str| {
        let name = name.to_lowercase();
        strsim::jaro_winkler(&wanted, &name).max(0.98 * strsim::jaro_winkler(&last(&wanted), &last(&name)))
    };
    let best = known.map(|name| (likeness(name), name)).max_by(|a, b| a.0.total_cmp(&b.0).then_with(|| b.1.cmp(a.1)));
    best.filter(|(likeness, _)| *likeness > 0.75).map(|(_, name)| name)
}

/// Processes that train together: one for each GPU, one for each node without GPUs.
#[must_use]
pub fn world_size(nodes: i32, gpus_per_node: i32) -> i64 {
    i64::from(nodes.max(1)) * i64::from(gpus_per_node.max(1))
}

/// The engine's word for a precision.
#[must_use]
pub fn precision(precision: Precision) -> &'static str {
    match precision {
        Precision::AmpBf16 => "amp_bf16",
        Precision::AmpFp16 => "amp_fp16",
        Precision::Fp32 => "fp32",
    }
}

fn duration(field: &'static str, text: &str) -> Result<TrainingDuration, Refusal> {
    text.parse().map_err(|error: NotADuration| Refusal::new("InvalidDuration", field, format!("{field}: {error}")))
}

fn context_length(request: &Request) -> Result<i64, Refusal> {
    let (model, object) = (request.model, request.model_object);
    let wanted = request.spec.context_length.unwrap_or_else(|| model.context_length());
    if wanted > model.max_context_length {
        let message = format!(
            "spec.contextLength is {wanted}, but FinetuneModel {object} ({}) supports at most {max}: set {max} or less",
            model.name,
            max = model.max_context_length
        );
        return Err(Refusal::new("ContextTooLong", "spec.contextLength", message));
    }
    Ok(wanted)
}

fn size<'a>(request: &Request<'a>, context_length: i64) -> Result<&'a ComputeSize, Refusal> {
    let (task, model) = (request.spec.task_type, request.model);
    model.size(task, context_length).ok_or_else(|| {
        let for_task = model.compute.iter().filter(|size| size.task_types.is_empty() || size.task_types.contains(&task));
        let task = serde_json::to_value(task).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default();
        let object = request.model_object;
        match for_task.filter_map(|size| size.max_context_length).max() {
            Some(most) => Refusal::new(
                "NoComputeSize",
                "spec.contextLength",
                format!(
                    "spec.contextLength is {context_length}, but FinetuneModel {object} has compute sizes for {task} up to {most} only: \
                     set {most} or less, or ask the administrator for a size"
                ),
            ),
            None => Refusal::new(
                "NoComputeSize",
                "spec.taskType",
                format!("spec.taskType is {task}, but FinetuneModel {object} has no compute size for it: ask the administrator for one, or choose another model"),
            ),
        }
    })
}

struct Compute {
    nodes: i32,
    gpus_per_node: i32,
    gpu_type: Option<String>,
}

fn compute(request: &Request, size: &ComputeSize) -> Result<Compute, Refusal> {
    let asked = request.spec.compute.clone().unwrap_or_default();
    let object = request.model_object;
    let (nodes, gpus_per_node) = (asked.nodes.unwrap_or(size.nodes), asked.gpus_per_node.unwrap_or(size.gpus_per_node));
    if gpus_per_node == 0 {
        if asked.gpu_type.is_some() {
            let message =
                "spec.compute.gpuType is set, but the run trains without GPUs: remove gpuType, or set spec.compute.gpusPerNode to 1 or more"
                    .to_owned();
            return Err(Refusal::new("InvalidCompute", "spec.compute.gpuType", message));
        }
        if size.precision != Precision::Fp32 || size.microbatch_size.is_none() {
            let message = format!(
                "spec.compute.gpusPerNode is 0, but FinetuneModel {object} trains in {} with microbatchSize {}, which needs a GPU: \
                 set gpusPerNode to 1 or more; a size for CPUs has precision fp32 and a microbatchSize",
                precision(size.precision),
                size.microbatch_size.map_or("auto".to_owned(), |size| size.to_string())
            );
            return Err(Refusal::new("InvalidCompute", "spec.compute.gpusPerNode", message));
        }
    }
    let world = world_size(nodes, gpus_per_node);
    if size.global_batch_size % world != 0 {
        let field = if asked.nodes.is_some() || asked.gpus_per_node.is_some() { "spec.compute" } else { "spec.model" };
        let message = format!(
            "{field}: {nodes} nodes x {gpus_per_node} GPUs are {world} processes, and the globalBatchSize of FinetuneModel {object}, {batch}, is not a multiple of {world}: \
             choose nodes and gpusPerNode whose product divides {batch}",
            batch = size.global_batch_size
        );
        return Err(Refusal::new("BatchSizeNotDivisible", field, message));
    }
    let gpu_type = asked.gpu_type.or_else(|| size.gpu_type.clone()).filter(|_| gpus_per_node > 0);
    Ok(Compute { nodes, gpus_per_node, gpu_type })
}

fn fits(request: &Request, size: &ComputeSize, compute: &Compute, context_length: i64) -> Result<(), Refusal> {
    // A type that the run chose has another memory than the table's row, unless some row of the table is of that type.
    let same_type = |row: &&ComputeSize| row.gpu_type == compute.gpu_type;
    let row = Some(size).filter(same_type).or_else(|| request.model.compute.iter().find(same_type));
    let Some(gpu_memory_gib) = row.and_then(|row| row.gpu_memory_gib).filter(|_| compute.gpus_per_node > 0) else { return Ok(()) };
    let gpus = world_size(compute.nodes, compute.gpus_per_node);
    let load = Load {
        parameters: request.model.parameters,
        context_length,
        microbatch_size: size.microbatch_size.unwrap_or(1).min(size.global_batch_size / gpus),
        fp32: size.precision == Precision::Fp32,
        gpus,
        gpu_memory_gib,
    };
    let Some(short) = fit::shortfall(&load) else { return Ok(()) };
    let more = short.gpus.map(|gpus| format!("{gpus} GPUs of that size (spec.compute.nodes times gpusPerNode)"));
    let shorter = short.context_length.map(|length| format!("a spec.contextLength of at most {length}"));
    let would_do = match (more, shorter) {
        (Some(more), Some(shorter)) => format!("{more} or {shorter} would do"),
        (Some(one), None) | (None, Some(one)) => format!("{one} would do"),
        (None, None) => "choose GPUs with more memory, or a smaller model".to_owned(),
    };
    let message = format!(
        "spec.compute: FinetuneModel {} with {} parameters at contextLength {context_length} needs at least {} GiB on each of {gpus} GPUs, and each has {gpu_memory_gib} GiB: {would_do}",
        request.model_object, request.model.parameters, short.needed_gib
    );
    Err(Refusal::new("DoesNotFit", "spec.compute", message))
}

/// A single process has no shards to load: the engine reads a checkpoint only in the form that it would write.
fn custom_weights(spec: &FinetuneRunSpec, world_size: i64) -> Result<(), Refusal> {
    let in_shards = spec.custom_weights_path.as_deref().is_some_and(|path| !llm_foundry::is_whole_checkpoint(path));
    if in_shards && world_size == 1 {
        let message = "spec.customWeightsPath names no .pt file, so a checkpoint in shards, which a single process cannot load: \
                       name a .pt file, or set spec.compute to more than one GPU";
        return Err(Refusal::new("CustomWeightsFormat", "spec.customWeightsPath", message.to_owned()));
    }
    Ok(())
}

/// Prompts stand twice in a `ConfigMap`, which holds 1 MiB.
fn prompts(spec: &FinetuneRunSpec) -> Result<(), Refusal> {
    let bytes: usize = spec.eval_prompts.iter().flatten().map(String::len).sum();
    if bytes > MOST_PROMPT_BYTES {
        let message = format!("spec.evalPrompts has {bytes} bytes together, and at most {MOST_PROMPT_BYTES} are possible: shorten or remove some");
        return Err(Refusal::new("EvalPromptsTooLong", "spec.evalPrompts", message));
    }
    Ok(())
}

/// The object store, from the run or else from the namespace.
fn store(request: &Request) -> Result<S3, Refusal> {
    let (store, field) = match (&request.spec.s3, &request.defaults.s3) {
        (Some(own), _) => (own.clone(), "spec.s3.endpointUrl".to_owned()),
        (None, Some(default)) => (default.clone(), of_defaults("s3.endpointUrl")),
        (None, None) => return Ok(S3::default()),
    };
    if let Some(address) = &store.endpoint_url {
        endpoint_allowed(request, "spec.s3.endpointUrl", &field, address)?;
    }
    if store.region.as_ref().is_some_and(|region| region.len() > 64 || region.contains(|c: char| !c.is_ascii_alphanumeric() && c != '-')) {
        let message = format!("{}: not a region: use letters, digits and dashes, at most 64", of_defaults("s3.region"));
        return Err(Refusal::new("InvalidDefaults", "spec.s3.region", message));
    }
    Ok(store)
}

/// Experiment and server, where the run is logged to `MLflow`.
fn tracker(request: &Request) -> Result<(Option<String>, Option<String>), Refusal> {
    let Some(mlflow) = request.spec.experiment_tracker.as_ref().and_then(|tracker| tracker.mlflow.as_ref()) else { return Ok((None, None)) };
    let (uri, field) = match (&mlflow.tracking_uri, &request.defaults.mlflow_tracking_uri) {
        (Some(own), _) => (own.clone(), "spec.experimentTracker.mlflow.trackingUri".to_owned()),
        (None, Some(default)) => (default.clone(), of_defaults("mlflowTrackingUri")),
        (None, None) => ("databricks".to_owned(), String::new()),
    };
    if uri != "databricks" {
        endpoint_allowed(request, "spec.experimentTracker.mlflow.trackingUri", &field, &uri)?;
    }
    let prefix = request.settings.experiment_prefix.trim_end_matches('/');
    let path = mlflow.experiment_path.clone().unwrap_or_else(|| format!("{prefix}/{}/{}", request.namespace, request.run));
    Ok((Some(path), Some(uri)))
}

fn endpoint_allowed(request: &Request, field: &'static str, said_in: &str, address: &str) -> Result<(), Refusal> {
    let why = if address.len() > 512 {
        Some("is longer than 512 characters".to_owned())
    } else {
        endpoint::refusal(address, &request.settings.allowed_endpoints)
    };
    why.map_or(Ok(()), |why| Err(Refusal::new("EndpointNotAllowed", field, format!("{said_in} {why}"))))
}

fn of_defaults(key: &str) -> String {
    format!("ConfigMap {} of this namespace, {key}", defaults::NAME)
}

/// What only the admin can change: the runtime's free-form parts.
fn admins_part(request: &Request) -> Result<(), Refusal> {
    let (runtime, object) = (request.runtime, request.runtime_object);
    let refuse = |part: &str, why: String| {
        let message = format!("FinetuneRuntime {object}, spec.{part}: {why}; ask the administrator to change it");
        Refusal::new("InvalidRuntime", "spec.model", message)
    };
    tuning::check(&runtime.engine_defaults).map_err(|why| refuse("engineDefaults", why))?;
    overrides::parse(&runtime.pod_overrides).map_err(|why| refuse("podOverrides", why))?;
    Ok(())
}

#[cfg(test)]
mod tests;
