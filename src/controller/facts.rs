//! Jobs and pods reduced to the facts that decisions rest on: pure.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ContainerState, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

/// How a Job stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Not ended.
    Open,
    /// Its `Complete` condition is true.
    Complete(Timestamp),
    /// Its `Failed` condition is true.
    Failed {
        /// The condition's reason, for example `PodFailurePolicy`.
        reason: String,
        /// The condition's message: names pod, exit code and rule.
        message: String,
        /// When.
        at: Timestamp,
    },
}

/// A Job of the run.
#[derive(Clone, Debug, PartialEq)]
pub struct JobFacts {
    /// Its uid.
    pub uid: String,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Whether it waits for a queue.
    pub suspended: bool,
    /// How it stands.
    pub outcome: Outcome,
}

/// What stands under the name of the wanted Job.
#[derive(Clone, Debug, PartialEq, Default)]
pub enum JobSeen {
    /// Nothing, or no Job is wanted.
    #[default]
    Absent,
    /// An object that is not this run's.
    Foreign,
    /// The run's own.
    Own(JobFacts),
}

impl JobSeen {
    /// The facts of `job`, which is the run's own only if its controller reference carries `run_uid`.
    #[must_use]
    pub fn of(job: &Job, run_uid: &str) -> Self {
        if controller_uid(&job.metadata) != Some(run_uid) {
            return Self::Foreign;
        }
        let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let mut outcome = Outcome::Open;
        for condition in conditions.filter(|c| c.status == "True") {
            let at = condition.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0);
            match condition.type_.as_str() {
                "Complete" => outcome = Outcome::Complete(at),
                "Failed" => {
                    outcome = Outcome::Failed {
                        reason: condition.reason.clone().unwrap_or_default(),
                        message: condition.message.clone().unwrap_or_default(),
                        at,
                    }
                }
                _ => {}
            }
        }
        Self::Own(JobFacts {
            uid: job.uid().unwrap_or_default(),
            deleting: job.metadata.deletion_timestamp.is_some(),
            suspended: job.spec.as_ref().and_then(|spec| spec.suspend).unwrap_or(false),
            outcome,
        })
    }
}

/// Uid of the object's controller.
#[must_use]
pub fn controller_uid(metadata: &ObjectMeta) -> Option<&str> {
    metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.as_str())
}

/// How the main container of a pod stands.
#[derive(Clone, Debug, PartialEq, Default)]
pub enum Container {
    /// No state yet.
    #[default]
    Unknown,
    /// Waiting, with reason and message.
    Waiting(String, String),
    /// Running since.
    Running(Timestamp),
    /// Ended.
    Ended {
        /// Exit code.
        code: i32,
        /// The kubelet's reason, for example `OOMKilled`.
        reason: String,
        /// Termination message, foreign input.
        message: String,
        /// When.
        at: Timestamp,
    },
}

/// A pod of the wanted Job.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct PodFacts {
    /// Its name.
    pub name: String,
    /// Rank, 0 where there is one node.
    pub rank: i32,
    /// Node it is bound to.
    pub node: Option<String>,
    /// Why the scheduler finds no place.
    pub unschedulable: Option<String>,
    /// When it was bound to its node.
    pub scheduled_at: Option<Timestamp>,
    /// Reason of a `DisruptionTarget` condition.
    pub disruption: Option<String>,
    /// Main container.
    pub container: Container,
    /// Whether it has ended.
    pub ended: bool,
    /// Newest warning event, looked up only while the container does not start.
    pub warning: Option<String>,
}

impl PodFacts {
    /// The facts of `pod`.
    #[must_use]
    pub fn of(pod: &Pod) -> Self {
        let status = pod.status.clone().unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default();
        let condition = |type_: &str, value: &str| conditions.iter().find(|c| c.type_ == type_ && c.status == value);
        let main = status.container_statuses.unwrap_or_default().into_iter().find(|c| c.name == MAIN);
        Self {
            name: pod.name_any(),
            rank: pod.annotations().get("batch.kubernetes.io/job-completion-index").and_then(|i| i.parse().ok()).unwrap_or(0),
            node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
            unschedulable: condition("PodScheduled", "False").map(|c| c.message.clone().unwrap_or_default()),
            scheduled_at: condition("PodScheduled", "True").and_then(|c| c.last_transition_time.as_ref()).map(|t| t.0),
            disruption: condition("DisruptionTarget", "True").map(|c| c.reason.clone().unwrap_or_default()),
            container: main.and_then(|c| c.state).map(container).unwrap_or_default(),
            ended: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
            warning: None,
        }
    }
}

impl PodFacts {
    /// When its main container ended.
    #[must_use]
    pub fn ended_at(&self) -> Option<Timestamp> {
        match &self.container {
            Container::Ended { at, .. } => Some(*at),
            _ => None,
        }
    }
}

/// Name of the container that does a stage's work.
pub const MAIN: &str = "main";

fn container(state: ContainerState) -> Container {
    if let Some(ended) = state.terminated {
        return Container::Ended {
            code: ended.exit_code,
            reason: ended.reason.unwrap_or_default(),
            message: ended.message.unwrap_or_default(),
            at: ended.finished_at.map_or(Timestamp::UNIX_EPOCH, |t| t.0),
        };
    }
    if let Some(running) = state.running {
        return Container::Running(running.started_at.map_or(Timestamp::UNIX_EPOCH, |t| t.0));
    }
    state.waiting.map_or(Container::Unknown, |w| Container::Waiting(w.reason.unwrap_or_default(), w.message.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn job(owner: &str) -> Job {
        serde_json::from_value(json!({"metadata": {"name": "j", "uid": "job-1", "ownerReferences": [
            {"apiVersion": "finetune.dev/v1alpha1", "kind": "FinetuneRun", "name": "sample", "uid": owner, "controller": true}]},
            "status": {"conditions": [
                {"type": "FailureTarget", "status": "True", "reason": "PodFailurePolicy"},
                {"type": "Failed", "status": "True", "reason": "PodFailurePolicy", "message": "exit code 20", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}))
        .unwrap()
    }

    #[test]
    fn a_job_is_ours_by_owner_uid_and_by_nothing_else() {
        assert_eq!(JobSeen::of(&job("another"), "uid-1"), JobSeen::Foreign);
        let at = "2026-01-01T00:00:00Z".parse().unwrap();
        let outcome = Outcome::Failed { reason: "PodFailurePolicy".into(), message: "exit code 20".into(), at };
        assert_eq!(JobSeen::of(&job("uid-1"), "uid-1"), JobSeen::Own(JobFacts { uid: "job-1".into(), deleting: false, suspended: false, outcome }));
    }

    #[test]
    fn only_the_main_container_counts() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "status": {"phase": "Failed", "containerStatuses": [
            {"name": "sidecar", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": 1}}},
            {"name": "main", "image": "", "imageID": "", "ready": false, "restartCount": 0,
             "state": {"terminated": {"exitCode": 20, "message": "m", "finishedAt": "2026-01-01T00:00:00Z"}}}]}}))
        .unwrap();
        let at = "2026-01-01T00:00:00Z".parse().unwrap();
        let container = Container::Ended { code: 20, reason: String::new(), message: "m".into(), at };
        assert_eq!(PodFacts::of(&pod), PodFacts { name: "p".into(), container, ended: true, ..PodFacts::default() });
    }
}
