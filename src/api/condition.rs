//! Conditions of a run: their types, and the merge that moves a transition time only with the status.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// The condition types, in the order in which they are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionType {
    /// The spec, with model and runtime, makes sense; from here on it is fixed.
    Accepted,
    /// Credentials and places were proved.
    PreflightPassed,
    /// The data were validated and converted.
    DataReady,
    /// Training ended well.
    Trained,
    /// The model is registered (True with reason `NotRequested` when the run asks for none).
    Registered,
    /// kstatus: the run completed.
    Ready,
    /// kstatus: the operator is still working towards completion.
    Reconciling,
    /// kstatus: nothing more will happen without a person.
    Stalled,
}

impl ConditionType {
    /// All of them, in order.
    pub const ALL: [Self; 8] =
        [Self::Accepted, Self::PreflightPassed, Self::DataReady, Self::Trained, Self::Registered, Self::Ready, Self::Reconciling, Self::Stalled];

    /// The name in the status.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::PreflightPassed => "PreflightPassed",
            Self::DataReady => "DataReady",
            Self::Trained => "Trained",
            Self::Registered => "Registered",
            Self::Ready => "Ready",
            Self::Reconciling => "Reconciling",
            Self::Stalled => "Stalled",
        }
    }
}

/// The status of the condition `type_`, if it is there.
#[must_use]
pub fn is_true(conditions: &[Condition], type_: ConditionType) -> bool {
    conditions.iter().any(|c| c.type_ == type_.as_str() && c.status == "True")
}

/// A condition; `merge` corrects its transition time.
#[must_use]
pub fn condition(type_: ConditionType, status: Option<bool>, reason: &str, message: &str, generation: Option<i64>, now: Time) -> Condition {
    Condition {
        type_: type_.as_str().to_owned(),
        status: match status {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        }
        .to_owned(),
        reason: reason.to_owned(),
        message: message.chars().take(1024).collect(),
        observed_generation: generation,
        last_transition_time: now,
    }
}

/// `next`, keeping the transition time of every condition whose status did not change.
#[must_use]
pub fn merge(current: &[Condition], next: Vec<Condition>) -> Vec<Condition> {
    let unchanged = |c: &Condition| current.iter().find(|old| old.type_ == c.type_ && old.status == c.status);
    next.into_iter()
        .map(|c| match unchanged(&c) {
            Some(old) => Condition { last_transition_time: old.last_transition_time.clone(), ..c },
            None => c,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Time {
        Time(jiff::Timestamp::from_second(second).unwrap())
    }

    #[test]
    fn a_transition_time_moves_only_with_the_status() {
        let old = [condition(ConditionType::Ready, Some(false), "A", "a", Some(1), at(1))];
        let kept = merge(&old, vec![condition(ConditionType::Ready, Some(false), "B", "b", Some(2), at(2))]);
        assert_eq!(kept, [condition(ConditionType::Ready, Some(false), "B", "b", Some(2), at(1))]);
        let moved = merge(&old, vec![condition(ConditionType::Ready, Some(true), "B", "b", Some(2), at(2))]);
        assert_eq!(moved, [condition(ConditionType::Ready, Some(true), "B", "b", Some(2), at(2))]);
    }
}
