//! The preflight stage: `plan.json` and the CPU Job that reads it. Pure.

use k8s_openapi::api::core::v1::ResourceRequirements;

use super::convert::Converted;
use super::job::{Terms, job};
use super::pod::{Shape, pod};
use super::{Stage, Subject, attachment, config, convert, json, quantities, secrets};
use crate::api::status::Stage as StageName;
use crate::preflight::plan::{self, Plan};

/// For all credential checks together, from the pod's start.
const CREDENTIALS_SECONDS: i64 = 120;
/// For the pod to start in: the Job's deadline counts from before that, the program's own from after it.
const START_SECONDS: i64 = 600;
const SCRATCH_GIB: i64 = 8;

/// The preflight's `number`-th try. It looks at what was converted instead of its originals.
#[must_use]
pub fn preflight(subject: &Subject, number: i64, convert_data: bool, made: Converted<'_>) -> Stage {
    let metadata = subject.stage_metadata(StageName::Preflight, number);
    let spec = &subject.run.spec;
    let places =
        [Some(spec.train_data_path.as_str()), spec.eval_data_path.as_deref(), spec.custom_weights_path.as_deref(), Some(&subject.resolved.weights)];
    let shape = Shape {
        stage: StageName::Preflight,
        number,
        image: subject.settings.preflight_image.clone(),
        pull_policy: subject.settings.preflight_pull_policy.clone(),
        command: vec!["/finetune-preflight".to_owned()],
        argument: "run",
        env: Vec::new(),
        attachments: attachment::claims(places.into_iter().flatten()),
        resources: ResourceRequirements {
            requests: Some(quantities([("cpu", "100m"), ("memory", "128Mi")])),
            // For a tokenizer of 256,000 tokens and 26 threads; what a run takes depends on both, not on its data.
            limits: Some(quantities([("memory", "2Gi")])),
            claims: None,
        },
        scratch_gib: SCRATCH_GIB,
        grace_seconds: 30,
    };
    let template = pod(subject, shape, &subject.overrides());
    let deadline = subject.settings.data_deadline_seconds.max(1).saturating_add(START_SECONDS + CREDENTIALS_SECONDS);
    let terms = Terms { deadline_seconds: Some(deadline), nodes: 1, queued: false };
    let plan = json(&plan(subject, convert_data, made));
    Stage { config: config(metadata.clone(), [("plan.json", plan)]), job: job(subject.job_metadata(metadata), template, terms) }
}

fn plan(subject: &Subject, convert_data: bool, made: Converted<'_>) -> Plan {
    let Subject { run, resolved, snapshot, settings, .. } = subject;
    let spec = &run.spec;
    let data = |name: &str, place: &str| if made.tables && convert::is_table(place) { convert::copy(subject, name) } else { place.to_owned() };
    let tracker = spec.experiment_tracker.as_ref();
    Plan {
        version: 1,
        run: plan::RunIdentity { namespace: subject.namespace.to_owned(), name: subject.name.to_owned(), uid: subject.uid.to_owned() },
        spec_hash: subject.spec_hash.to_owned(),
        check_credentials: spec.checks_credentials(),
        convert_data,
        task_type: spec.task_type,
        train: data("train", &spec.train_data_path),
        eval: spec.eval_data_path.as_deref().map(|place| data("eval", place)),
        cluster: spec.data_prep_cluster_id.clone().filter(|_| !made.tables),
        eval_prompts: spec.eval_prompts.as_ref().map_or(0, |prompts| at_most_u32(prompts.len())),
        save_folder: spec.save_folder.clone(),
        context_length: at_most_u32(resolved.context_length),
        model: plan::ModelSource {
            name: snapshot.model.name.clone(),
            weights: Some(resolved.weights.clone()),
            revision: snapshot.model.revision.clone(),
            tokenizer: made.tokenizer.map(str::to_owned),
            chat_template: snapshot.model.chat_template.clone(),
        },
        custom_weights: spec.custom_weights_path.clone(),
        packing: spec.packing,
        global_batch_size: at_most_u32(resolved.global_batch_size),
        world_size: at_most_u32(i64::from(resolved.nodes.max(1)) * i64::from(resolved.gpus_per_node.max(1))),
        mlflow: resolved.experiment_path.as_ref().map(|experiment| plan::MlflowTarget {
            tracking_uri: resolved.tracking_uri.clone(),
            experiment_path: experiment.clone(),
            registry: resolved.register_to.clone(),
        }),
        wandb: tracker
            .and_then(|tracker| tracker.wandb.as_ref())
            .map(|wandb| plan::WandbTarget { project: wandb.project.clone(), entity: wandb.entity.clone() }),
        s3: (resolved.s3_endpoint_url.is_some() || resolved.s3_region.is_some())
            .then(|| plan::S3Endpoint { endpoint_url: resolved.s3_endpoint_url.clone(), region: resolved.s3_region.clone() }),
        secrets: snapshot
            .secrets
            .iter()
            .map(|secret| plan::SecretMount {
                name: secret.name.clone(),
                kind: secret.kind,
                key: secret.key.clone(),
                profile: secret.profile.clone(),
                path: secrets::path(&secret.name),
            })
            .collect(),
        deadlines: plan::Deadlines {
            credentials_seconds: at_most_u32(CREDENTIALS_SECONDS),
            data_seconds: at_most_u32(settings.data_deadline_seconds.max(1)),
        },
    }
}

fn at_most_u32<T>(number: T) -> u32
where
    u32: TryFrom<T>,
{
    u32::try_from(number).unwrap_or(u32::MAX)
}
