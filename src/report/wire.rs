//! The two bodies that trainers post, turned into a `Report`: pure, never fails but for JSON of another shape.
//!
//! Trainers run the code of whoever made the model and the data, so nothing here is believed: numbers that make no sense
//! are absent, places outside the run's own outputs are dropped, and free text never gets further than this module.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer};

use super::message::{CHECKPOINTS, Checkpoint, CheckpointKind, EVAL_METRICS, EVENTS, Event, Progress, Report, WaitingFor};
use crate::api::status::EventType;

/// Largest count: what every JSON reader holds exactly.
const COUNT_LIMIT: f64 = 9_007_199_254_740_991.0;
/// Largest magnitude of any other number.
const MAGNITUDE_LIMIT: f64 = 1e30;
const URI_LIMIT: usize = 1200;
/// Ten years: a longer estimate says nothing.
const REMAINING_LIMIT: i64 = 315_360_000;

/// Why a body is no report. Says nothing of the body's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Not the JSON that the route takes.
    #[error("the body is not a report: JSON of another shape at line {line}, column {column}")]
    Shape {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// `attempt` is missing or no number from 0.
    #[error("attempt must be a number from 0: send FINETUNE_ATTEMPT")]
    Attempt,
    /// `start` is unusable.
    #[error("start must be 1 to 64 letters, digits and dashes: send an id that is made once per process")]
    Start,
    /// `sequence` is unusable.
    #[error("sequence must be a number from 0 that grows with each post")]
    Sequence,
}

impl From<serde_json::Error> for MessageError {
    fn from(error: serde_json::Error) -> Self {
        Self::Shape { line: error.line(), column: error.column() }
    }
}

/// A number, or a string with one; anything else counts as absent, as do NaN and infinity.
#[derive(Clone, Copy, Debug, Default)]
struct Number(Option<f64>);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        let number = value.as_f64().or_else(|| value.as_str()?.trim().parse().ok());
        Ok(Self(number.filter(|n| n.is_finite())))
    }
}

impl Number {
    fn or(self, other: Self) -> Self {
        Self(self.0.or(other.0))
    }

    #[allow(clippy::cast_possible_truncation)] // clamped to what fits
    fn count(self) -> Option<i64> {
        self.0.filter(|n| *n >= 0.0).map(|n| n.min(COUNT_LIMIT) as i64)
    }

    #[allow(clippy::cast_possible_truncation)] // clamped to what fits
    fn percent(self) -> Option<i32> {
        self.0.map(|n| n.clamp(0.0, 100.0) as i32)
    }

    fn signed(self) -> Option<f64> {
        self.0.map(|n| n.clamp(-MAGNITUDE_LIMIT, MAGNITUDE_LIMIT))
    }

    fn unsigned(self) -> Option<f64> {
        self.signed().filter(|n| *n >= 0.0)
    }

    fn remaining(self) -> Option<i64> {
        self.count().map(|n| n.min(REMAINING_LIMIT))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Own {
    #[serde(default)]
    attempt: Number,
    #[serde(default)]
    start: String,
    #[serde(default)]
    sequence: Number,
    waiting_for: Option<OwnWaitingFor>,
    progress: Option<OwnProgress>,
    events: Option<Vec<OwnEvent>>,
    checkpoints: Option<Vec<OwnCheckpoint>>,
}

#[derive(Deserialize)]
struct OwnWaitingFor {
    #[serde(default)]
    what: String,
    #[serde(default)]
    percent: Number,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct OwnProgress {
    step: Number,
    total_steps: Number,
    epoch: Number,
    tokens: Number,
    total_tokens: Number,
    loss: Number,
    learning_rate: Number,
    gradient_norm: Number,
    tokens_per_second: Number,
    eval_metrics: Option<BTreeMap<String, Number>>,
    estimated_remaining_seconds: Number,
}

#[derive(Deserialize)]
struct OwnEvent {
    #[serde(rename = "type")]
    type_: String,
    time: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OwnCheckpoint {
    #[serde(default)]
    step: Number,
    #[serde(default)]
    epoch: Number,
    time: Option<String>,
    #[serde(default)]
    uri: String,
    #[serde(default)]
    size_bytes: Number,
    #[serde(default)]
    kind: String,
}

/// Reads a post of the operator's own route. `outputs` is the run's `<saveFolder>/<run>`, `now` the time of arrival.
pub fn own(body: &[u8], outputs: &str, now: Timestamp) -> Result<Report, MessageError> {
    let own: Own = serde_json::from_slice(body)?;
    let attempt = own.attempt.count().ok_or(MessageError::Attempt)?;
    let sequence = own.sequence.count().ok_or(MessageError::Sequence)?;
    if !is_word(&own.start) {
        return Err(MessageError::Start);
    }
    Ok(Report {
        attempt,
        start: own.start,
        sequence,
        waiting_for: own.waiting_for.as_ref().and_then(waiting_for),
        progress: own.progress.map(progress).unwrap_or_default(),
        events: events(own.events.unwrap_or_default(), now),
        checkpoints: checkpoints(own.checkpoints.unwrap_or_default(), outputs, now),
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kubeflow {
    trainer_status: KubeflowStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct KubeflowStatus {
    #[serde(default)]
    progress_percentage: Number,
    #[serde(default)]
    estimated_remaining_seconds: Number,
    metrics: Option<Vec<KubeflowMetric>>,
}

#[derive(Deserialize)]
struct KubeflowMetric {
    name: String,
    #[serde(default)]
    value: Number,
}

/// Reads a post as Hugging Face Trainer sends it to a Kubeflow server. It names neither attempt nor process nor order, so
/// `attempt` is the one that the sender's pod belongs to, `pod_uid` stands for the process and the arrival for the order.
pub fn kubeflow(body: &[u8], attempt: i64, pod_uid: &str, now: Timestamp) -> Result<Report, MessageError> {
    let Kubeflow { trainer_status: status } = serde_json::from_slice(body)?;
    let named: BTreeMap<String, Number> = status.metrics.unwrap_or_default().into_iter().map(|m| (m.name, m.value)).collect();
    let metric = |name: &str| named.get(name).copied().unwrap_or_default();
    let eval_metrics = named.iter().filter(|(name, _)| name.starts_with("eval_")).map(|(name, value)| (name.clone(), *value)).collect();
    Ok(Report {
        attempt,
        start: pod_uid.chars().take(64).collect(),
        sequence: now.as_microsecond(),
        waiting_for: None,
        progress: Progress {
            percent: status.progress_percentage.percent(),
            step: metric("current_step").count(),
            total_steps: metric("total_steps").count(),
            epoch: metric("current_epoch").or(metric("epoch")).count(),
            tokens: metric("num_tokens").count(),
            total_tokens: None,
            loss: metric("loss").or(metric("train_loss")).signed(),
            learning_rate: metric("learning_rate").unsigned(),
            gradient_norm: metric("grad_norm").unsigned(),
            tokens_per_second: metric("train_tokens_per_second").unsigned(),
            eval_metrics: metrics(eval_metrics),
            estimated_remaining_seconds: status.estimated_remaining_seconds.remaining(),
        },
        events: Vec::new(),
        checkpoints: Vec::new(),
    })
}

/// Lower-case words only: credentials have digits or capitals.
fn waiting_for(own: &OwnWaitingFor) -> Option<WaitingFor> {
    let allowed = |c: char| c.is_ascii_lowercase() || matches!(c, ' ' | '-');
    let what = own.what.trim();
    let plain = (1..=32).contains(&what.len()) && what.chars().all(allowed);
    let what = if plain { what } else { "the trainer" };
    (!own.what.is_empty()).then(|| WaitingFor { what: what.to_owned(), percent: own.percent.percent() })
}

fn progress(own: OwnProgress) -> Progress {
    Progress {
        percent: None,
        step: own.step.count(),
        total_steps: own.total_steps.count(),
        epoch: own.epoch.count(),
        tokens: own.tokens.count(),
        total_tokens: own.total_tokens.count(),
        loss: own.loss.signed(),
        learning_rate: own.learning_rate.unsigned(),
        gradient_norm: own.gradient_norm.unsigned(),
        tokens_per_second: own.tokens_per_second.unsigned(),
        eval_metrics: metrics(own.eval_metrics.unwrap_or_default()),
        estimated_remaining_seconds: own.estimated_remaining_seconds.remaining(),
    }
}

fn metrics(named: BTreeMap<String, Number>) -> BTreeMap<String, f64> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | '@');
    let is_name = |name: &str| (1..=64).contains(&name.len()) && name.chars().all(allowed);
    named.into_iter().filter(|(name, _)| is_name(name)).filter_map(|(name, value)| Some((name, value.signed()?))).take(EVAL_METRICS).collect()
}

fn events(own: Vec<OwnEvent>, now: Timestamp) -> Vec<Event> {
    let mut events: Vec<Event> = own
        .into_iter()
        .rev()
        .filter_map(|event| {
            let type_ = match event.type_.as_str() {
                "MODEL_INITIALIZED" => EventType::ModelInitialized,
                "TRAIN_STARTED" => EventType::TrainStarted,
                "CHECKPOINT_SAVED" => EventType::CheckpointSaved,
                "TRAIN_FINISHED" => EventType::TrainFinished,
                _ => return None,
            };
            let sent = timestamp(event.time.as_deref())?;
            Some(Event { type_, time: sent.min(now), sent })
        })
        .take(EVENTS)
        .collect();
    events.reverse();
    events
}

fn checkpoints(own: Vec<OwnCheckpoint>, outputs: &str, now: Timestamp) -> Vec<Checkpoint> {
    let by_uri: BTreeMap<String, Checkpoint> = own
        .into_iter()
        .filter_map(|checkpoint| {
            let kind = match checkpoint.kind.as_str() {
                "composer" => CheckpointKind::Composer,
                "huggingface" => CheckpointKind::Huggingface,
                _ => return None,
            };
            let complete = Checkpoint {
                step: checkpoint.step.count()?,
                epoch: checkpoint.epoch.count(),
                time: timestamp(checkpoint.time.as_deref())?.min(now),
                uri: below(&checkpoint.uri, outputs)?.to_owned(),
                size_bytes: checkpoint.size_bytes.count(),
                kind,
            };
            Some((complete.uri.clone(), complete))
        })
        .collect();
    let mut checkpoints: Vec<Checkpoint> = by_uri.into_values().collect();
    checkpoints.sort_by_key(|checkpoint| checkpoint.step);
    checkpoints.drain(..checkpoints.len().saturating_sub(CHECKPOINTS));
    checkpoints
}

/// `uri` without a slash at its end, if it lies below `outputs` by plain names only: no `..`, no empty name, nothing that
/// some store or shell reads as more than a name.
#[must_use]
pub fn below<'a>(uri: &'a str, outputs: &str) -> Option<&'a str> {
    let uri = uri.strip_suffix('/').unwrap_or(uri);
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '=');
    let plain = |name: &str| !name.is_empty() && name != "." && name != ".." && name.chars().all(allowed);
    let rest = uri.strip_prefix(outputs.trim_end_matches('/'))?.strip_prefix('/')?;
    (!outputs.is_empty() && uri.len() <= URI_LIMIT && rest.split('/').all(plain)).then_some(uri)
}

fn is_word(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
}

/// Years with four digits only: others are valid for some parsers and break the API server's.
fn timestamp(text: Option<&str>) -> Option<Timestamp> {
    let time: Timestamp = text.filter(|text| text.len() <= 64)?.parse().ok()?;
    (0..253_402_300_800).contains(&time.as_second()).then_some(time)
}

#[cfg(test)]
mod tests;
