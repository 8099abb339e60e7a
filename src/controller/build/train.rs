//! The train stage: `train.json`, the engine's configuration and the Job that holds the accelerators. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{EnvVar, PodSpec, PodTemplateSpec, ResourceRequirements, Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;

use super::attachment::{self, Attachment, RUN, SCRATCH};
use super::environment::{field, literal};
use super::job::{Terms, job};
use super::overrides::PodOverrides;
use super::pod::{Shape, pod};
use super::{RunIdentity, Stage, Subject, config, gib, json, labelled};
use crate::api::scheduling::Priority;
use crate::api::status::{DataStatus, MlflowRun, Stage as StageName};
use crate::api::{TaskType, names};

const PORT: i32 = 29_500;
/// Kueue's own label.
const QUEUE: &str = "kueue.x-k8s.io/queue-name";
/// Digest of the training data, for whoever asks later what an attempt was trained on.
const DATA_DIGEST: &str = "finetune.dev/data-digest";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TrainFile<'a> {
    version: u32,
    run: RunIdentity<'a>,
    attempt: i64,
    spec_hash: &'a str,
    engine_config: String,
    processes_per_node: i32,
    nodes: i32,
    model: ModelFiles<'a>,
    outputs: String,
    expected_checkpoint: Option<&'a str>,
    task_type: TaskType,
    eval_prompts: &'a [String],
    mlflow: Option<MlflowTarget<'a>>,
    keep_checkpoints: i32,
    grace_seconds: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ModelFiles<'a> {
    weights: &'a str,
    revision: Option<&'a str>,
    local: String,
    chat_template: Option<&'a str>,
    pad_token: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MlflowTarget<'a> {
    tracking_uri: &'a str,
    experiment_id: &'a str,
    run_id: &'a str,
}

/// Attempt `attempt` at training on `data`. With `expected_checkpoint` the trainer must go on from it or a newer one.
#[must_use]
pub fn train(
    subject: &Subject,
    attempt: i64,
    data: &DataStatus,
    tracking: Option<&MlflowRun>,
    expected_checkpoint: Option<&str>,
    engine_config: &serde_json::Value,
) -> Stage {
    let (spec, resolved, runtime) = (&subject.run.spec, subject.resolved, &subject.snapshot.runtime);
    let model = &subject.snapshot.model;
    let metadata = subject.stage_metadata(StageName::Train, attempt);
    let file = TrainFile {
        version: 1,
        run: subject.identity(),
        attempt,
        spec_hash: subject.spec_hash,
        engine_config: format!("{}/engine.yaml", attachment::CONFIG),
        processes_per_node: resolved.gpus_per_node.max(1),
        nodes: resolved.nodes,
        model: ModelFiles {
            weights: &resolved.weights,
            revision: model.revision.as_deref(),
            local: format!("{SCRATCH}/model"),
            chat_template: model.chat_template.as_deref(),
            pad_token: model.pad_token.as_deref(),
        },
        outputs: subject.outputs(),
        expected_checkpoint,
        task_type: spec.task_type,
        eval_prompts: spec.eval_prompts.as_deref().unwrap_or_default(),
        mlflow: resolved.tracking_uri.as_deref().zip(tracking).map(|(tracking_uri, run)| MlflowTarget {
            tracking_uri,
            experiment_id: &run.experiment_id,
            run_id: &run.run_id,
        }),
        keep_checkpoints: spec.keep_checkpoints,
        grace_seconds: runtime.termination_grace_seconds,
    };
    let config = config(metadata.clone(), [("train.json", json(&file)), ("engine.yaml", yaml(engine_config))]);

    let overrides = subject.overrides();
    let shape = Shape {
        stage: StageName::Train,
        number: attempt,
        image: resolved.image.clone(),
        pull_policy: runtime.image_pull_policy.map(|policy| format!("{policy:?}")),
        command: subject.runtime_command(),
        argument: "train",
        env: environment(subject, attempt, tracking),
        attachments: attachments(subject),
        resources: resources(subject),
        scratch_gib: subject.size().scratch_gib,
        grace_seconds: runtime.termination_grace_seconds,
    };
    let template = schedule(subject, pod(subject, shape, &overrides), overrides);
    let mut metadata = subject.job_metadata(metadata);
    if let Some(train) = &data.train {
        metadata.annotations.get_or_insert_default().insert(DATA_DIGEST.to_owned(), train.digest.clone());
    }
    let queue = spec.scheduling.queue.as_deref();
    if let Some(queue) = queue {
        metadata.labels.get_or_insert_default().insert(QUEUE.to_owned(), queue.to_owned());
    }
    let terms = Terms { deadline_seconds: deadline(subject), nodes: resolved.nodes.max(1), queued: queue.is_some() };
    Stage { config, job: job(metadata, template, terms) }
}

/// The headless Service through which the nodes of a run of several nodes find the first one; `None` for one node.
/// It is made before the Job.
#[must_use]
pub fn service(subject: &Subject) -> Option<Service> {
    if subject.resolved.nodes < 2 {
        return None;
    }
    let labels = names::labels(subject.name, subject.uid);
    let selector = labelled([(names::RUN_UID, subject.uid), (names::STAGE, StageName::Train.as_str())]);
    let port = ServicePort { name: Some("rendezvous".to_owned()), port: PORT, ..ServicePort::default() };
    Some(Service {
        metadata: subject.metadata(names::peers(subject.name, subject.uid), labels),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            selector: Some(selector),
            ports: Some(vec![port]),
            // The nodes look for each other before any of them is ready.
            publish_not_ready_addresses: Some(true),
            ..ServiceSpec::default()
        }),
        status: None,
    })
}

fn environment(subject: &Subject, attempt: i64, tracking: Option<&MlflowRun>) -> Vec<EnvVar> {
    let Subject { name, namespace, uid, resolved, settings, .. } = subject;
    let (rank, master) = if resolved.nodes > 1 {
        let first = names::job(name, uid, StageName::Train, attempt);
        let rank = field("NODE_RANK", "metadata.annotations['batch.kubernetes.io/job-completion-index']");
        (rank, format!("{first}-0.{}.{namespace}.svc", names::peers(name, uid)))
    } else {
        (literal("NODE_RANK", "0"), "127.0.0.1".to_owned())
    };
    let report = settings.report_url.trim_end_matches('/');
    let (token, ca) = (format!("{RUN}/report/token"), format!("{RUN}/report/{}", super::CA_KEY));
    let mut env = vec![
        rank,
        literal("MASTER_ADDR", &master),
        literal("MASTER_PORT", &PORT.to_string()),
        literal("FINETUNE_NODES", &resolved.nodes.to_string()),
        literal("FINETUNE_REPORT_URL", &format!("{report}/v1/namespaces/{namespace}/runs/{name}/report")),
        literal("FINETUNE_REPORT_CA", &ca),
        literal("FINETUNE_REPORT_TOKEN", &token),
        literal(
            "KUBEFLOW_TRAINER_SERVER_URL",
            &format!("{report}/apis/trainer.kubeflow.org/v1alpha1/namespaces/{namespace}/trainjobs/{name}/status"),
        ),
        literal("KUBEFLOW_TRAINER_SERVER_CA_CERT", &ca),
        literal("KUBEFLOW_TRAINER_SERVER_TOKEN", &token),
    ];
    if let Some((tracking_uri, run)) = resolved.tracking_uri.as_deref().zip(tracking) {
        env.extend([literal("MLFLOW_TRACKING_URI", tracking_uri), literal("MLFLOW_RUN_ID", &run.run_id)]);
    }
    env
}

fn attachments(subject: &Subject) -> Vec<Attachment> {
    let ca = names::ca(subject.name, subject.uid);
    let shared_memory = Quantity(format!("{}Mi", subject.size().memory_gib * 512));
    let mut all = vec![attachment::shared_memory(shared_memory), attachment::report(&subject.settings.report_audience, ca)];
    all.extend(attachment::claims([Some(subject.resolved.weights.as_str()), subject.run.spec.custom_weights_path.as_deref()].into_iter().flatten()));
    all
}

fn resources(subject: &Subject) -> ResourceRequirements {
    let size = subject.size();
    let memory = gib(size.memory_gib);
    let mut requests: BTreeMap<_, _> = [("cpu", processors(size.cpus)), ("memory", memory.clone()), ("ephemeral-storage", gib(size.scratch_gib))]
        .map(|(name, amount)| (name.to_owned(), amount))
        .into();
    let mut limits = BTreeMap::from([("memory".to_owned(), memory)]);
    if subject.resolved.gpus_per_node > 0 {
        let gpus = (subject.snapshot.runtime.gpu_resource.clone(), Quantity(subject.resolved.gpus_per_node.to_string()));
        requests.extend([gpus.clone()]);
        limits.extend([gpus]);
    }
    ResourceRequirements { requests: Some(requests), limits: Some(limits), claims: None }
}

fn schedule(subject: &Subject, template: PodTemplateSpec, overrides: PodOverrides) -> PodTemplateSpec {
    let PodTemplateSpec { metadata, spec } = template;
    let metadata = metadata.unwrap_or_default();
    let mut node_selector = overrides.node_selector;
    if let Some(gpu_type) = &subject.resolved.gpu_type {
        node_selector.insert(subject.snapshot.runtime.gpu_type_label.clone(), gpu_type.clone());
    }
    let mut labels = overrides.labels;
    labels.extend(metadata.labels.unwrap_or_default());
    let priority_class_name = match subject.run.spec.scheduling.priority {
        Priority::Auto => overrides.priority_class_name,
        Priority::Low => Some("finetune-low".to_owned()),
        Priority::Lowest => Some("finetune-lowest".to_owned()),
    };
    let spec = spec.map(|spec| PodSpec {
        node_selector: (!node_selector.is_empty()).then_some(node_selector),
        tolerations: (!overrides.tolerations.is_empty()).then_some(overrides.tolerations),
        affinity: overrides.affinity,
        runtime_class_name: overrides.runtime_class_name,
        scheduler_name: overrides.scheduler_name,
        priority_class_name,
        // With it the Job's controller gives each pod the name by which the others find it.
        subdomain: (subject.resolved.nodes > 1).then(|| names::peers(subject.name, subject.uid)),
        ..spec
    });
    let annotations = (!overrides.annotations.is_empty()).then_some(overrides.annotations);
    PodTemplateSpec { metadata: Some(ObjectMeta { labels: Some(labels), annotations, ..metadata }), spec }
}

/// The operator itself stops a run whose hours are over, attempts before this one included; the Job's own limit stands only
/// behind that, and leaves time for the checkpoint.
fn deadline(subject: &Subject) -> Option<i64> {
    let hours = subject.run.spec.scheduling.max_duration_hours?;
    let limit = Duration::try_from_secs_f64(hours * 3600.0).ok()?.as_secs().max(1);
    Some(i64::try_from(limit).ok()?.saturating_add(subject.snapshot.runtime.termination_grace_seconds))
}

/// Every text is quoted and every number plain, so that readers of YAML 1.1 and 1.2 see the same values.
pub(crate) fn yaml(value: &serde_json::Value) -> String {
    let options = serde_saphyr::ser_options! { quote_all: true, prefer_block_scalars: false };
    serde_saphyr::to_string_with_options(value, options).unwrap_or_else(|_| value.to_string())
}

/// An amount of processors; whole ones are written as such.
#[allow(clippy::cast_possible_truncation)] // the schema allows at most 1024
fn processors(cpus: f64) -> Quantity {
    let thousandths = (cpus * 1000.0).round() as i64;
    Quantity(if thousandths % 1000 == 0 { (thousandths / 1000).to_string() } else { format!("{thousandths}m") })
}
