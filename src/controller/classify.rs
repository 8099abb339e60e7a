//! Why a Job failed: from the Job's condition, the pod's status and the termination message to one failure class; pure.

use serde::Deserialize;

use super::facts::{Container, Outcome, PodFacts};
use crate::api::status::{Failure, FailureClass, Stage};

/// What a train or register pod says as it ends; foreign input.
#[derive(Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Farewell {
    /// Uid of the run it believes in.
    pub run_uid: String,
    /// First exception.
    pub exception: Option<String>,
    /// End of the log.
    pub log_tail: Option<String>,
    /// Steps done.
    pub step: Option<i64>,
    /// Steps in all.
    pub total_steps: Option<i64>,
    /// Newest complete checkpoint.
    pub checkpoint: Option<SavedCheckpoint>,
    /// Export.
    pub hf_checkpoint: Option<String>,
    /// Its size.
    pub hf_checkpoint_bytes: Option<i64>,
    /// Registered model.
    pub model: Option<RegisteredVersion>,
}

/// A checkpoint in a farewell.
#[derive(Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SavedCheckpoint {
    /// Where.
    pub uri: String,
    /// Steps in it.
    pub step: i64,
    /// Bytes.
    #[serde(default)]
    pub size_bytes: Option<i64>,
}

/// A registered version in a farewell.
#[derive(Deserialize, Clone, Debug, PartialEq)]
pub struct RegisteredVersion {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Address.
    pub uri: String,
}

/// The farewell in the termination message of rank 0, if there is one and it is of this run.
#[must_use]
pub fn farewell(pods: &[PodFacts], run_uid: &str) -> Option<Farewell> {
    pods.iter().filter(|pod| pod.rank == 0).find_map(|pod| match &pod.container {
        Container::Ended { message, .. } => read(message, run_uid),
        _ => None,
    })
}

fn read(message: &str, run_uid: &str) -> Option<Farewell> {
    let farewell: Farewell = serde_json::from_str(message).ok()?;
    (farewell.run_uid == run_uid).then_some(farewell)
}

/// The pod condition of a preemption, an eviction or a drain.
const DISRUPTION: &str = "DisruptionTarget";

/// The class of an exit code, as `docs/contract.md` section 3 has it.
#[must_use]
pub fn class_of_exit_code(code: i32) -> Option<FailureClass> {
    match code {
        10..=19 => Some(FailureClass::UserError),
        20..=29 => Some(FailureClass::DataError),
        30..=39 => Some(FailureClass::CredentialError),
        40..=49 => Some(FailureClass::OutOfMemory),
        50..=59 => Some(FailureClass::Diverged),
        60..=69 => Some(FailureClass::Preempted),
        70..=79 => Some(FailureClass::Infrastructure),
        _ => None,
    }
}

/// The failure of a Job that ended badly. The pod that the Job's condition names decides; a disruption comes before an exit
/// code, since a pod that is told to go ends with one as well.
#[must_use]
pub fn failure(stage: Stage, number: i64, outcome: &Outcome, pods: &[PodFacts], run_uid: &str) -> Failure {
    let (condition_reason, condition_message) = match outcome {
        Outcome::Failed { reason, message, .. } => (reason.as_str(), message.as_str()),
        _ => ("", ""),
    };
    let ended_badly = |pod: &&PodFacts| matches!(&pod.container, Container::Ended { code, .. } if *code != 0) || pod.disruption.is_some();
    let named = pods.iter().find(|pod| !pod.name.is_empty() && condition_message.contains(&format!("/{} ", pod.name)));
    let pod = named.or_else(|| pods.iter().find(ended_badly));
    let (code, kubelet_reason, message) = match pod.map(|pod| &pod.container) {
        Some(Container::Ended { code, reason, message, .. }) => (Some(*code), reason.as_str(), message.as_str()),
        _ => (exit_code_in(condition_message), "", ""),
    };
    let farewell = read(message, run_uid);
    let disruption = pod.and_then(|pod| pod.disruption.as_deref());

    let (class, reason) = if let Some(why) = disruption {
        match why {
            "DeletionByTaintManager" | "DeletionByPodGC" => (FailureClass::NodeLost, why),
            _ => (FailureClass::Preempted, if why.is_empty() { DISRUPTION } else { why }),
        }
    } else if pod.is_none() && condition_message.contains(DISRUPTION) {
        (FailureClass::Preempted, DISRUPTION)
    } else if condition_reason == "DeadlineExceeded" {
        (FailureClass::Infrastructure, "DeadlineExceeded")
    } else if kubelet_reason == "OOMKilled" {
        (FailureClass::OutOfMemory, "OOMKilled")
    } else if let Some(class) = code.and_then(class_of_exit_code) {
        (class, name(class))
    } else if farewell.as_ref().is_some_and(|f| f.exception.is_some()) {
        (FailureClass::UserError, "Exception")
    } else {
        (FailureClass::Infrastructure, if kubelet_reason.is_empty() { "PodFailed" } else { kubelet_reason })
    };
    // A container that could not be started has the node's words as its message.
    let of_node = matches!(kubelet_reason, "StartError" | "ContainerCannotRun").then(|| message.to_owned());
    let exception = farewell.as_ref().and_then(|f| f.exception.clone()).or(of_node).map(|text| cut(&text, 500));
    Failure {
        class,
        stage,
        reason: cut(reason, 64),
        message: describe(stage, class, pod, code, exception.as_deref(), condition_message),
        hint: Some(hint(class).to_owned()),
        exit_code: code.filter(|code| (0..=255).contains(code)),
        exception,
        log_tail: farewell.and_then(|f| f.log_tail).map(|text| cut(&text, 1500)),
        pod: pod.map(|pod| cut(&pod.name, 253)),
        attempt: (stage == Stage::Train).then_some(number),
    }
}

fn name(class: FailureClass) -> &'static str {
    match class {
        FailureClass::UserError => "UserError",
        FailureClass::DataError => "DataError",
        FailureClass::CredentialError => "CredentialError",
        FailureClass::OutOfMemory => "OutOfMemory",
        FailureClass::Diverged => "Diverged",
        FailureClass::Preempted => "Preempted",
        FailureClass::NodeLost => "NodeLost",
        FailureClass::Stalled => "Stalled",
        FailureClass::Infrastructure => "Infrastructure",
    }
}

fn describe(stage: Stage, class: FailureClass, pod: Option<&PodFacts>, code: Option<i32>, exception: Option<&str>, condition: &str) -> String {
    let who = pod.map_or_else(|| format!("the {} pod", stage.as_str()), |pod| format!("pod {}", pod.name));
    let node = pod.and_then(|pod| pod.node.as_deref()).map(|node| format!(" on node {node}")).unwrap_or_default();
    let what = match (class, code) {
        (FailureClass::Preempted, _) => "was stopped for somebody else".to_owned(),
        (FailureClass::NodeLost, _) => "was lost with its node".to_owned(),
        (_, Some(code)) => format!("ended with exit code {code}"),
        (_, None) => "failed".to_owned(),
    };
    let why = exception.map(|text| format!(": {}", text.lines().next().unwrap_or_default())).unwrap_or_default();
    let why = if why.is_empty() && pod.is_none() && !condition.is_empty() { format!(": {condition}") } else { why };
    cut(&format!("{who}{node} {what}{why}"), 1000)
}

/// What a person can do about a failure of `class`.
#[must_use]
pub fn hint(class: FailureClass) -> &'static str {
    match class {
        FailureClass::UserError => "change the run as the message says and make a new one",
        FailureClass::DataError => "mend the data as the message says and make a new run",
        FailureClass::CredentialError => "check the Secret that the message names and what it may do, then make a new run",
        FailureClass::OutOfMemory => "use a shorter contextLength, more or larger GPUs (compute), or a smaller model",
        FailureClass::Diverged => "lower learningRate or look at the data, then make a new run",
        FailureClass::Preempted | FailureClass::NodeLost => "nothing to do: the run goes on from its newest checkpoint",
        FailureClass::Stalled => "look at the pod's log; the run goes on from its newest checkpoint",
        FailureClass::Infrastructure => "look at the service or node that the message names; the run is tried again a few times",
    }
}

fn exit_code_in(message: &str) -> Option<i32> {
    let rest = &message[message.find("exit code ")? + "exit code ".len()..];
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// At most `max` characters of `text`, without control characters other than line ends.
#[must_use]
pub fn cut(text: &str, max: usize) -> String {
    text.chars().filter(|c| !c.is_control() || *c == '\n').take(max).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(message: &str) -> Outcome {
        Outcome::Failed { reason: "PodFailurePolicy".into(), message: message.into(), at: jiff::Timestamp::UNIX_EPOCH }
    }

    fn pod(code: i32, reason: &str, message: &str) -> PodFacts {
        let container = Container::Ended { code, reason: reason.into(), message: message.into(), at: jiff::Timestamp::UNIX_EPOCH };
        PodFacts { name: "p".into(), container, ended: true, ..PodFacts::default() }
    }

    fn class(outcome: &Outcome, pods: &[PodFacts]) -> (FailureClass, String) {
        let failure = failure(Stage::Train, 0, outcome, pods, "uid-1");
        (failure.class, failure.reason)
    }

    #[test]
    fn every_exit_code_range_has_its_class() {
        let cases = [
            (10, FailureClass::UserError),
            (20, FailureClass::DataError),
            (30, FailureClass::CredentialError),
            (40, FailureClass::OutOfMemory),
            (50, FailureClass::Diverged),
            (60, FailureClass::Preempted),
            (70, FailureClass::Infrastructure),
        ];
        for (code, expected) in cases {
            assert_eq!(class(&failed(""), &[pod(code, "Error", "")]), (expected, format!("{expected:?}")));
        }
    }

    #[test]
    fn a_disruption_wins_over_the_exit_code_that_it_caused() {
        let disrupted = |why: &str| PodFacts { disruption: Some(why.into()), ..pod(137, "Error", "") };
        assert_eq!(class(&failed(""), &[disrupted("PreemptionByScheduler")]), (FailureClass::Preempted, "PreemptionByScheduler".into()));
        assert_eq!(class(&failed(""), &[disrupted("DeletionByTaintManager")]), (FailureClass::NodeLost, "DeletionByTaintManager".into()));
    }

    #[test]
    fn exit_137_is_out_of_memory_only_when_the_kubelet_says_so() {
        assert_eq!(class(&failed(""), &[pod(137, "OOMKilled", "")]).0, FailureClass::OutOfMemory);
        assert_eq!(class(&failed(""), &[pod(137, "Error", "")]).0, FailureClass::Infrastructure);
    }

    #[test]
    fn the_jobs_condition_still_tells_the_exit_code_when_the_pod_is_gone() {
        let outcome = failed("Container main for pod team-a/p failed with exit code 21 matching FailJob rule at index 1");
        assert_eq!(class(&outcome, &[]), (FailureClass::DataError, "DataError".into()));
    }

    #[test]
    fn the_jobs_condition_still_tells_a_disruption_when_the_pod_is_gone() {
        let outcome = failed("Pod team-a/p has condition DisruptionTarget matching FailJob rule at index 0");
        assert_eq!(class(&outcome, &[]), (FailureClass::Preempted, "DisruptionTarget".into()));
    }

    #[test]
    fn a_message_of_another_run_is_not_believed() {
        let other = r#"{"runUid": "uid-2", "exception": "boom"}"#;
        assert_eq!(class(&failed(""), &[pod(1, "Error", other)]).0, FailureClass::Infrastructure);
        let own = r#"{"runUid": "uid-1", "exception": "boom"}"#;
        assert_eq!(class(&failed(""), &[pod(1, "Error", own)]).0, FailureClass::UserError);
    }
}
