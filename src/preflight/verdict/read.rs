//! How a termination message is read, by the operator: as foreign input; pure.

use super::Verdict;
use crate::api::status::Stage;

/// Longest termination message that is read.
pub const MAX_READ_BYTES: usize = 4096;
/// Most checks that are read.
const MAX_CHECKS: usize = 32;

/// Why a termination message is not a verdict.
#[derive(Debug, thiserror::Error)]
pub enum VerdictError {
    /// Longer than any message that a kubelet keeps.
    #[error("the termination message has {0} bytes, at most {MAX_READ_BYTES} are read")]
    TooLarge(usize),
    /// Not JSON, or not this shape.
    #[error("the termination message is not a preflight verdict: {0}")]
    Shape(#[from] serde_json::Error),
    /// It contradicts itself or has an impossible value.
    #[error("the preflight verdict is not believable: {0}")]
    Nonsense(&'static str),
}

impl Verdict {
    /// Reads a termination message, believing nothing: bounded, no control characters, no contradictions.
    pub fn parse(text: &str) -> Result<Self, VerdictError> {
        if text.len() > MAX_READ_BYTES {
            return Err(VerdictError::TooLarge(text.len()));
        }
        let mut verdict: Self = serde_json::from_str(text)?;
        if verdict.version != 1 || verdict.stage != Stage::Preflight {
            return Err(VerdictError::Nonsense("it is not version 1 of stage preflight"));
        }
        if verdict.checks.is_empty() || verdict.checks.len() > MAX_CHECKS {
            return Err(VerdictError::Nonsense("it has no checks, or too many"));
        }
        if !verdict.checks.windows(2).all(|pair| pair[0].name < pair[1].name) {
            return Err(VerdictError::Nonsense("its checks are not in order"));
        }
        if verdict.passed != verdict.checks.iter().all(|check| check.passed) {
            return Err(VerdictError::Nonsense("it contradicts its own checks"));
        }
        for check in &mut verdict.checks {
            if check.passed == check.class.is_some() || check.passed == check.reason.is_some() {
                return Err(VerdictError::Nonsense("a failed check has no class or reason, or a passed one has"));
            }
            if check.reason.as_deref().is_some_and(|reason| !is_reason(reason)) {
                return Err(VerdictError::Nonsense("a reason is not one CamelCase word"));
            }
            for text in [&mut check.field, &mut check.message].into_iter().flatten() {
                clean(text);
            }
        }
        clean(&mut verdict.spec_hash);
        if verdict.data.as_ref().is_some_and(|data| !(1.0..=1_000_000.0).contains(&data.packing_ratio)) {
            return Err(VerdictError::Nonsense("its packing ratio is below 1"));
        }
        for source in verdict.sources() {
            clean(&mut source.source);
            clean(&mut source.digest);
            for text in [&mut source.mds, &mut source.advice].into_iter().flatten() {
                clean(text);
            }
        }
        if let Some(mlflow) = &mut verdict.mlflow {
            clean(&mut mlflow.experiment_id);
            clean(&mut mlflow.run_id);
            if let Some(url) = &mut mlflow.url {
                clean(url);
            }
        }
        Ok(verdict)
    }
}

/// Whether a word can be the reason of a Kubernetes condition.
fn is_reason(word: &str) -> bool {
    word.len() <= 64 && word.starts_with(|c: char| c.is_ascii_alphabetic()) && word.chars().all(|c| c.is_ascii_alphanumeric())
}

/// Control characters could forge lines in a terminal or a log.
fn clean(text: &mut String) {
    if text.contains(char::is_control) {
        *text = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    }
}
