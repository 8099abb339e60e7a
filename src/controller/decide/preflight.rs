//! What the end of a preflight means; pure.

use super::draft::{Draft, failure};
use crate::api::TaskType;
use crate::api::condition::ConditionType;
use crate::api::status::{CurrentJob, DataSet, DataStatus, EventType, Failure, FailureClass, MlflowRun, Stage, Tracking};
use crate::controller::build;
use crate::controller::classify::{self, cut};
use crate::controller::facts::{Container, Outcome};
use crate::controller::observed::SnapshotSeen;
use crate::engine;
use crate::preflight::failure::TOKENIZER_MISSING;
use crate::preflight::verdict::{Check, SourceReport, Verdict};

/// Preflights in a row that may fail for reasons that are not the user's.
const MAX_FAILURES: i64 = 6;

pub(super) fn ended(draft: &mut Draft<'_>, current: &CurrentJob, outcome: &Outcome) {
    draft.status.current_job = None;
    let message = draft.seen.pods.iter().find_map(|pod| match &pod.container {
        Container::Ended { message, .. } => Some(message.as_str()),
        _ => None,
    });
    let verdict = message.ok_or_else(|| "its pod is gone".to_owned()).and_then(|m| Verdict::parse(m).map_err(|e| e.to_string()));
    let bound = |verdict: &Verdict| draft.status.spec_hash.as_deref() == Some(verdict.spec_hash.as_str());
    match (outcome, verdict) {
        (Outcome::Complete(_), Ok(verdict)) if verdict.passed && bound(&verdict) => passed(draft, current, &verdict),
        (Outcome::Failed { .. }, Ok(verdict)) if !verdict.passed && bound(&verdict) => refused(draft, current, outcome, &verdict),
        (Outcome::Complete(_), Err(why)) => unclear(draft, &format!("the preflight said nothing that can be believed: {why}"), None),
        (Outcome::Complete(_), Ok(_)) => unclear(draft, "the preflight's verdict is not of this spec", None),
        (_, _) => {
            let failure = classify::failure(Stage::Preflight, current.number, outcome, &draft.seen.pods, uid(draft));
            let message = failure.message.clone();
            unclear(draft, &message, Some(failure));
        }
    }
}

/// The Job was given up by us, or deleted by somebody before its end was seen: then it is simply made anew.
pub(super) fn lost(draft: &mut Draft<'_>, current: &CurrentJob) {
    draft.status.current_job = None;
    if let Some(failure) = current.given_up.as_deref() {
        unclear(draft, &failure.message, Some(failure.clone()));
    }
}

fn uid<'a>(draft: &Draft<'a>) -> &'a str {
    draft.seen.run.metadata.uid.as_deref().unwrap_or_default()
}

fn passed(draft: &mut Draft<'_>, current: &CurrentJob, verdict: &Verdict) {
    draft.status.retries.preflight_failures = 0;
    draft.status.next_attempt_at = None;
    if let Some(mlflow) = &verdict.mlflow {
        let run = MlflowRun {
            experiment_id: cut(&mlflow.experiment_id, 64),
            run_id: cut(&mlflow.run_id, 64),
            url: cut(mlflow.url.as_deref().unwrap_or_default(), 1024),
        };
        draft.status.tracking = Some(Tracking { mlflow: Some(run) });
    }
    let first = !crate::api::condition::is_true(&draft.status.conditions, ConditionType::DataReady);
    let summary = verdict.checks.iter().map(|check| check.name.as_str()).collect::<Vec<_>>().join(", ");
    let checked = if draft.seen.run.spec.checks_credentials() {
        format!("passed: {summary}")
    } else {
        format!("credentials were not checked, as the run asks; passed: {summary}")
    };
    draft.set(ConditionType::PreflightPassed, Some(true), "Passed", &checked);
    if current.checks_only {
        return;
    }
    if first {
        draft.event(EventType::CheckPassed, &checked);
    }
    match data_status(draft, verdict) {
        Ok(data) => {
            let text = describe(&data, draft.seen.run.spec.task_type);
            draft.set(ConditionType::DataReady, Some(true), "Validated", &text);
            if first {
                draft.event(EventType::DataValidated, &text);
            }
            plan_duration(draft, data);
        }
        Err(why) => unclear(draft, why, None),
    }
}

fn describe(data: &DataStatus, task: TaskType) -> String {
    let Some(train) = &data.train else { return String::new() };
    let count = |n: i64, what: &str| if n > 0 { format!("; {n} {what}") } else { String::new() };
    format!(
        "{} {}, {} tokens{}{}{}{}{}",
        train.rows,
        if task == TaskType::ContinuedPretrain { "files" } else { "rows" },
        train.tokens,
        count(train.dropped, "dropped because nothing in them can be trained on within the context length"),
        count(train.too_long, "longer than the context length"),
        count(train.duplicates.unwrap_or_default(), "the same as an earlier row"),
        count(data.eval.as_ref().and_then(|eval| eval.also_in_train).unwrap_or_default(), "evaluation rows are in the training data too"),
        train.advice.as_ref().map(|advice| format!("; {advice}")).unwrap_or_default(),
    )
}

/// The data report, believed only as far as it stays below the run's own save folder.
fn data_status(draft: &Draft<'_>, verdict: &Verdict) -> Result<DataStatus, &'static str> {
    let spec = &draft.seen.run.spec;
    let report = verdict.data.as_ref().ok_or("the preflight passed without a data report")?;
    let home = format!("{}/mds/", spec.save_folder.trim_end_matches('/'));
    let set = |source: &SourceReport, fallback: &str| -> Result<DataSet, &'static str> {
        let mds = source
            .mds
            .clone()
            .filter(|mds| mds.starts_with(&home) && !mds.contains(".."))
            .ok_or("the preflight names converted data outside the save folder")?;
        let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        Ok(DataSet {
            source: if source.source.is_empty() || build::is_table(fallback) { fallback.to_owned() } else { cut(&source.source, 1024) },
            digest: cut(&source.digest, 128),
            rows: count(source.rows),
            tokens: count(source.tokens),
            too_long: count(source.too_long),
            dropped: count(source.dropped),
            duplicates: source.duplicates.map(count),
            also_in_train: source.also_in_train.map(count),
            advice: source.advice.as_deref().map(|advice| cut(advice, 512)),
            samples: count(source.samples),
            mds: cut(&mds, 1200),
        })
    };
    let train = set(report.train.as_ref().ok_or("the preflight passed without training data")?, &spec.train_data_path)?;
    let eval = match (&report.eval, &spec.eval_data_path) {
        (Some(source), Some(path)) => Some(set(source, path)?),
        (None, None) => None,
        _ => return Err("the preflight's evaluation data are not what the run asks for"),
    };
    let name = draft.seen.run.metadata.name.as_deref().unwrap_or_default();
    Ok(DataStatus {
        estimated_steps: None,
        estimated_gpu_hours: None,
        train: Some(train),
        eval,
        packing_ratio: Some(report.packing_ratio),
        report: Some(format!("{}/{name}/preflight.json", spec.save_folder.trim_end_matches('/'))),
        cached: report.cached,
    })
}

/// With the data known, the duration has a number of steps and the interval of checkpoints is resolved.
fn plan_duration(draft: &mut Draft<'_>, mut data: DataStatus) {
    if let Some(resolved) = &mut draft.status.resolved {
        let plan = engine::duration::plan(&draft.seen.run.spec, resolved, &data);
        resolved.interval = Some(plan.interval.to_string());
        data.estimated_steps = plan.steps;
        if let SnapshotSeen::Own(snapshot) = &draft.seen.snapshot {
            data.estimated_gpu_hours = engine::cost::gpu_hours(snapshot.model.parameters, resolved, plan.duration, &data);
        }
    }
    draft.status.data = Some(data);
}

/// The checks say no. A missing Secret is waited for, a service that did not answer is asked again, anything else ends the run.
fn refused(draft: &mut Draft<'_>, current: &CurrentJob, outcome: &Outcome, verdict: &Verdict) {
    let failed: Vec<&Check> = verdict.checks.iter().filter(|check| !check.passed).collect();
    let Some(first) = failed.first() else { return };
    if draft.status.tokenizer.is_none() && failed.iter().all(|check| check.reason.as_deref() == Some(TOKENIZER_MISSING)) {
        return super::convert::want_tokenizer(draft);
    }
    let class = first.class.unwrap_or(FailureClass::Infrastructure);
    let reason = first.reason.clone().unwrap_or_else(|| "CheckFailed".to_owned());
    let message = failed.iter().map(|check| sentence(check)).collect::<Vec<_>>().join("; ");
    let facts = classify::failure(Stage::Preflight, current.number, outcome, &draft.seen.pods, uid(draft));
    let failure = Failure { exit_code: facts.exit_code, pod: facts.pod, ..failure(class, Stage::Preflight, &reason, &message) };
    let condition = if matches!(first.name.as_str(), "TrainRows" | "EvalRows") { ConditionType::DataReady } else { ConditionType::PreflightPassed };
    draft.set(condition, Some(false), &reason, &message);
    if condition == ConditionType::DataReady {
        draft.set(ConditionType::PreflightPassed, Some(true), "Passed", "credentials and places are fine");
    }
    match class {
        FailureClass::CredentialError if matches!(reason.as_str(), "SecretMissing" | "SecretKeyMissing") => wait(draft, failure),
        FailureClass::Infrastructure if draft.status.retries.preflight_failures < MAX_FAILURES => wait(draft, failure),
        _ => {
            draft.event(EventType::CheckFailed, &message);
            draft.fail(failure);
        }
    }
}

fn sentence(check: &Check) -> String {
    let text = check.message.clone().or_else(|| check.reason.clone()).unwrap_or_default();
    match &check.field {
        Some(field) if !text.contains(field.as_str()) => format!("{field}: {text}"),
        _ => text,
    }
}

fn wait(draft: &mut Draft<'_>, failure: Failure) {
    draft.status.failure = Some(failure);
    draft.status.retries.preflight_failures += 1;
    // A Secret is soon there once it was asked for; a service that is down may take longer.
    let failures = draft.status.retries.preflight_failures;
    let is_secret = draft.status.failure.as_ref().is_some_and(|failure| failure.class == FailureClass::CredentialError);
    draft.back_off(if is_secret { failures.min(3) } else { failures });
}

/// No verdict: the pod was lost, killed or garbled. Asked again, but not for ever; never a pass.
fn unclear(draft: &mut Draft<'_>, message: &str, known: Option<Failure>) {
    let failure = known.unwrap_or_else(|| failure(FailureClass::Infrastructure, Stage::Preflight, "NoVerdict", message));
    draft.set(ConditionType::PreflightPassed, Some(false), &failure.reason.clone(), message);
    if draft.status.retries.preflight_failures < MAX_FAILURES {
        wait(draft, failure);
    } else {
        draft.event(EventType::CheckFailed, message);
        draft.fail(failure);
    }
}
