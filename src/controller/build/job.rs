//! The Job around a stage's pod: one try, whose end names the pod, the exit code and the rule. Pure.

use std::ops::RangeInclusive;

use k8s_openapi::api::batch::v1::{
    Job, JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern, PodFailurePolicyRule,
    SuccessPolicy, SuccessPolicyRule,
};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::pod;

/// Exit codes with a meaning, one range for each failure class.
const EXIT_CODES: [RangeInclusive<i32>; 7] = [10..=19, 20..=29, 30..=39, 40..=49, 50..=59, 60..=69, 70..=79];

/// What differs between the Jobs of the stages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// Seconds from the Job's start to its end, however it goes.
    pub(super) deadline_seconds: Option<i64>,
    /// Pods, each with a rank from 0.
    pub(super) nodes: i32,
    /// Whether a queue lets it start.
    pub(super) queued: bool,
}

/// A Job that is tried once. Nothing is retried, replaced early or cleaned up behind the operator's back.
pub(super) fn job(metadata: ObjectMeta, template: PodTemplateSpec, terms: Terms) -> Job {
    let ranked = terms.nodes > 1;
    let rank_0 = || SuccessPolicy { rules: vec![SuccessPolicyRule { succeeded_indexes: Some("0".to_owned()), succeeded_count: None }] };
    Job {
        metadata,
        spec: Some(JobSpec {
            active_deadline_seconds: terms.deadline_seconds,
            backoff_limit: Some(0),
            completion_mode: ranked.then(|| "Indexed".to_owned()),
            completions: Some(terms.nodes),
            parallelism: Some(terms.nodes),
            pod_failure_policy: Some(PodFailurePolicy { rules: rules() }),
            // Two pods of one rank would write one checkpoint folder.
            pod_replacement_policy: Some("Failed".to_owned()),
            success_policy: ranked.then(rank_0),
            suspend: terms.queued.then_some(true),
            template,
            ..JobSpec::default()
        }),
        status: None,
    }
}

/// The disruption stands first: a pod that is told to go ends with some exit code as well, and that must not count as its own failure.
/// The last rule is for codes without a meaning: the condition of a Job names pod and code only when a rule matches.
fn rules() -> Vec<PodFailurePolicyRule> {
    let fail = PodFailurePolicyRule { action: "FailJob".to_owned(), ..PodFailurePolicyRule::default() };
    let disruption = PodFailurePolicyOnPodConditionsPattern { type_: "DisruptionTarget".to_owned(), status: Some("True".to_owned()) };
    let codes = |operator: &str, values: Vec<i32>| PodFailurePolicyRule {
        on_exit_codes: Some(PodFailurePolicyOnExitCodesRequirement {
            container_name: Some(pod::CONTAINER.to_owned()),
            operator: operator.to_owned(),
            values,
        }),
        ..fail.clone()
    };
    let mut rules = vec![PodFailurePolicyRule { on_pod_conditions: Some(vec![disruption]), ..fail.clone() }];
    rules.extend(EXIT_CODES.map(|range| codes("In", range.collect())));
    rules.push(codes("NotIn", vec![0]));
    rules
}
