//! The flow of one preflight: plan, checks, claim, data, report, verdict. Reads the plan, writes the verdict, and writes below the
//! save folder once it is claimed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use object_store::{ObjectStoreExt, PutPayload};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::address::Policy;
use super::checks::{self, Context};
use super::dial::{Dialer, DialerError};
use super::plan::{MAX_PLAN_BYTES, Plan, PlanError};
use super::stage::{self, Prepared};
use super::verdict::{Check, CheckName, Verdict};

/// The exit code of a plan that cannot be read.
const EXIT_PLAN: u8 = 11;
/// The exit code of a preflight that was told to stop.
const EXIT_STOPPED: u8 = 61;
/// For what probes made to be removed in, behind the verdict: less than the pod's grace.
const CLEANING: Duration = Duration::from_secs(20);

/// Where a preflight reads and writes.
#[derive(Debug, Clone)]
pub struct Options {
    /// The plan.
    pub plan: PathBuf,
    /// Where the verdict goes.
    pub termination_log: PathBuf,
    /// Lets addresses and folders of this machine pass: for tests.
    pub allow_local: bool,
}

/// Why no verdict could be reached.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No plan to read.
    #[error("cannot read the plan {0}")]
    Read(PathBuf, #[source] std::io::Error),
    /// A plan of another make.
    #[error("cannot use the plan {0}")]
    Plan(PathBuf, #[source] PlanError),
    /// No HTTP client.
    #[error(transparent)]
    Dialer(#[from] DialerError),
}

impl RunError {
    /// Exit code.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Read(..) | Self::Plan(..) => EXIT_PLAN,
            Self::Dialer(_) => 70,
        }
    }
}

/// Where the lines of the report go.
pub type Say<'a> = &'a (dyn Fn(&str) + Sync);

/// Runs a preflight to its exit code.
pub async fn run(options: &Options, say: Say<'_>) -> u8 {
    let unfinished = TaskTracker::new();
    let result = tokio::select! {
        result = prove(options, unfinished.clone(), say) => Some(result),
        () = told_to_stop() => None,
    };
    unfinished.close();
    if tokio::time::timeout(CLEANING, unfinished.wait()).await.is_err() {
        say("a probe could not be removed in time: the next preflight of this run removes it");
    }
    let Some(result) = result else {
        say("told to stop before the verdict");
        return EXIT_STOPPED;
    };
    let (text, exit_code) = match result {
        Ok(verdict) => (verdict.fit(), verdict.exit_code()),
        Err(error) => {
            // No program reads it: the kubelet shows it to people.
            let text = chain(&error);
            say(&text);
            (text, error.exit_code())
        }
    };
    if let Err(error) = std::fs::write(&options.termination_log, text) {
        say(&format!("cannot write the verdict to {}: {error}", options.termination_log.display()));
    }
    exit_code
}

async fn prove(options: &Options, unfinished: TaskTracker, say: Say<'_>) -> Result<Verdict, RunError> {
    let start = Instant::now();
    let plan = read_plan(&options.plan)?;
    let environment: BTreeMap<String, String> =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))).collect();
    let api_server = environment.get("KUBERNETES_SERVICE_HOST").map(String::as_str);
    let policy = if options.allow_local { Policy::open() } else { Policy::strict(api_server) };
    let context = Context { unfinished, ..Context::new(plan, Dialer::new(policy)?, environment) };
    Ok(judge(&context, start, say).await)
}

fn read_plan(path: &Path) -> Result<Plan, RunError> {
    use std::io::Read;
    let unread = |error| RunError::Read(path.to_owned(), error);
    let mut bytes = Vec::new();
    std::fs::File::open(path).map_err(unread)?.take(MAX_PLAN_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(unread)?;
    Plan::parse(&bytes).map_err(|error| RunError::Plan(path.to_owned(), error))
}

/// Checks, data, tracker run and report, in this order; what failed ends the order.
pub async fn judge(context: &Context, start: Instant, say: Say<'_>) -> Verdict {
    let plan = &context.plan;
    let deadlines = plan.deadlines;
    let mut checks = checks::prove(context, start + Duration::from_secs(deadlines.credentials_seconds.into())).await;
    checks.sort_by_key(|check| check.name);
    let tell = |checks: &[Check]| checks.iter().for_each(|check| say(&line(check)));
    tell(&checks);
    let is_claimed = checks.iter().any(|check| check.name == CheckName::Claim && check.passed);
    let mut prepared = Prepared::default();
    if plan.convert_data && passed(&checks) {
        prepared = stage::prepare(context, start + Duration::from_secs(deadlines.data_seconds.into())).await;
        tell(&prepared.checks);
        for check in prepared.checks.drain(..) {
            replace(&mut checks, check);
        }
    }
    let mut mlflow = None;
    if let Some(target) = plan.mlflow.as_ref().filter(|_| passed(&checks)) {
        match checks::make_run(context, target).await {
            Ok(run) => mlflow = Some(run),
            Err(failure) => {
                let failed = failure.into_check(CheckName::Mlflow, checks::MLFLOW_FIELD);
                say(&line(&failed));
                replace(&mut checks, failed);
            }
        }
    }
    let verdict = Verdict::new(plan.spec_hash.clone(), checks, prepared.report, mlflow);
    let report = json!({"version": 1, "verdict": verdict, "badRows": prepared.bad_rows}).to_string();
    say(&report);
    if is_claimed {
        store(context, report, say).await;
    }
    verdict
}

/// The later result of a check counts.
fn replace(checks: &mut Vec<Check>, check: Check) {
    checks.retain(|earlier| earlier.name != check.name);
    checks.push(check);
}

fn passed(checks: &[Check]) -> bool {
    checks.iter().all(|check| check.passed)
}

/// The report in the run's folder. Without it the verdict is still good: the pod's log has it too.
async fn store(context: &Context, report: String, say: Say<'_>) {
    let Ok(root) = context.stores.open(&context.plan.save_folder) else { return };
    let place = root.below(&format!("{}/preflight.json", context.plan.run.name));
    if let Err(error) = place.store.put(&place.path, PutPayload::from(report)).await {
        say(&place.asked.failure("write", &error).message);
    }
}

fn line(check: &Check) -> String {
    let name = check.name.as_str();
    if check.passed {
        return format!("passed  {name}");
    }
    let class = check.class.map(|class| format!("{class:?}")).unwrap_or_default();
    format!("failed  {name}  {class}/{}  {}", check.reason.as_deref().unwrap_or_default(), check.message.as_deref().unwrap_or_default())
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

async fn told_to_stop() {
    // As the first process of its container it gets no signal that it does not ask for.
    match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        Ok(mut signal) => {
            signal.recv().await;
        }
        Err(_) => std::future::pending().await,
    }
}

#[cfg(test)]
mod data_tests;
#[cfg(test)]
mod hub_tests;
#[cfg(test)]
mod tests;
