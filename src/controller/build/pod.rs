//! The pod that every stage runs in: identity, confinement, places and variables. Pure.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    Capabilities, Container, EnvVar, PodSecurityContext, PodSpec, PodTemplateSpec, ResourceRequirements, SeccompProfile, SecurityContext,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::Subject;
use super::attachment::{self, Attachment, SCRATCH};
use super::environment::literal;
use super::overrides::PodOverrides;
use super::secrets::{self, Projection};
use crate::api::names;
use crate::api::status::Stage as StageName;

/// Name of the only container.
pub(super) const CONTAINER: &str = "main";

/// User and group of every process.
const ID: i64 = 65_532;

/// What differs between the pods of the stages.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) stage: StageName,
    pub(super) number: i64,
    pub(super) image: String,
    pub(super) pull_policy: Option<String>,
    pub(super) command: Vec<String>,
    pub(super) argument: &'static str,
    pub(super) env: Vec<EnvVar>,
    pub(super) attachments: Vec<Attachment>,
    pub(super) resources: ResourceRequirements,
    pub(super) scratch_gib: i64,
    pub(super) grace_seconds: i64,
}

/// The pod of a stage. A missing Secret holds the pod back in every stage but preflight, which reports it.
pub(super) fn pod(subject: &Subject, shape: Shape, overrides: &PodOverrides) -> PodTemplateSpec {
    let runs_the_runtime = shape.stage != StageName::Preflight;
    let Projection { attachments: secret_files, env: secret_env } = secrets::project(&subject.snapshot.secrets, runs_the_runtime);
    let own = [attachment::config(&names::job(subject.name, subject.uid, shape.stage, shape.number)), attachment::scratch(shape.scratch_gib)];
    let attachments = own.into_iter().chain(shape.attachments).chain(secret_files);
    let (mut volumes, mut mounts): (Vec<_>, Vec<_>) = attachments.map(|a| (a.volume, a.mount)).unzip();
    volumes.extend(overrides.volumes.iter().cloned());
    mounts.extend(overrides.volume_mounts.iter().cloned());
    let env = common_env(subject, shape.stage, shape.number).into_iter().chain(shape.env).chain(overrides.env.iter().cloned()).chain(secret_env);

    let container = Container {
        name: CONTAINER.to_owned(),
        image: Some(shape.image),
        image_pull_policy: shape.pull_policy,
        command: Some(shape.command),
        args: Some(vec![shape.argument.to_owned()]),
        env: Some(first_of_each_name(env)),
        volume_mounts: Some(mounts),
        resources: Some(shape.resources),
        security_context: Some(container_confinement()),
        termination_message_path: Some("/dev/termination-log".to_owned()),
        termination_message_policy: Some("File".to_owned()),
        ..Container::default()
    };
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(names::stage_labels(subject.name, subject.uid, shape.stage, shape.number)),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            automount_service_account_token: Some(false),
            containers: vec![container],
            enable_service_links: Some(false),
            image_pull_secrets: (runs_the_runtime && !overrides.image_pull_secrets.is_empty()).then(|| overrides.image_pull_secrets.clone()),
            restart_policy: Some("Never".to_owned()),
            security_context: Some(pod_confinement()),
            service_account_name: Some(subject.run.spec.service_account_name.clone()),
            termination_grace_period_seconds: Some(shape.grace_seconds),
            volumes: Some(volumes),
            ..PodSpec::default()
        }),
    }
}

fn common_env(subject: &Subject, stage: StageName, number: i64) -> Vec<EnvVar> {
    let mut env = vec![
        literal("FINETUNE_RUN_NAME", subject.name),
        literal("FINETUNE_RUN_NAMESPACE", subject.namespace),
        literal("FINETUNE_RUN_UID", subject.uid),
        literal("FINETUNE_STAGE", stage.as_str()),
        literal("FINETUNE_ATTEMPT", &number.to_string()),
        literal("HOME", &format!("{SCRATCH}/home")),
        literal("TMPDIR", &format!("{SCRATCH}/tmp")),
        literal("HF_HOME", &format!("{SCRATCH}/hf")),
    ];
    if let Some(endpoint) = &subject.resolved.s3_endpoint_url {
        env.extend(["AWS_ENDPOINT_URL", "S3_ENDPOINT_URL"].map(|name| literal(name, endpoint)));
    }
    if let Some(region) = &subject.resolved.s3_region {
        env.extend(["AWS_REGION", "AWS_DEFAULT_REGION"].map(|name| literal(name, region)));
    }
    env
}

fn first_of_each_name(env: impl Iterator<Item = EnvVar>) -> Vec<EnvVar> {
    let mut seen = BTreeSet::new();
    env.filter(|variable| seen.insert(variable.name.clone())).collect()
}

fn pod_confinement() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(ID),
        run_as_group: Some(ID),
        fs_group: Some(ID),
        fs_group_change_policy: Some("OnRootMismatch".to_owned()),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
        ..PodSecurityContext::default()
    }
}

fn container_confinement() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities { add: None, drop: Some(vec!["ALL".to_owned()]) }),
        read_only_root_filesystem: Some(true),
        ..SecurityContext::default()
    }
}
