//! The flow of one preflight: plan, checks, claim, data, report, verdict. Reads the plan, writes the verdict, and writes below the
//! save folder once it is claimed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use object_store::{ObjectStoreExt, PutPayload};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::address::Policy;
use super::checks::{self, Context};
use super::dial::{Dialer, DialerError};
use super::plan::{MAX_PLAN_BYTES, Plan, PlanError};
use super::stage;
use super::verdict::{Check, CheckName, Verdict};

/// The exit code of a plan that cannot be read.
const EXIT_PLAN: u8 = 11;
/// The exit code of a preflight that was told to stop.
const EXIT_STOPPED: u8 = 61;

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

/// Runs a preflight to its exit code.
pub async fn run(options: &Options) -> u8 {
    let result = tokio::select! {
        result = prove(options) => result,
        () = told_to_stop() => {
            say("told to stop before the verdict");
            return EXIT_STOPPED;
        }
    };
    match result {
        Ok(verdict) => {
            if let Err(error) = std::fs::write(&options.termination_log, verdict.fit()) {
                say(&format!("cannot write the verdict to {}: {error}", options.termination_log.display()));
            }
            verdict.exit_code()
        }
        Err(error) => {
            let text = chain(&error);
            say(&text);
            // The kubelet shows it to people; no program reads it.
            let _ = std::fs::write(&options.termination_log, &text);
            error.exit_code()
        }
    }
}

async fn prove(options: &Options) -> Result<Verdict, RunError> {
    let start = Instant::now();
    let plan = read_plan(&options.plan)?;
    let environment: BTreeMap<String, String> =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))).collect();
    let policy = if options.allow_local { Policy::open() } else { Policy::strict(environment.get("KUBERNETES_SERVICE_HOST").map(String::as_str)) };
    let context = Context::new(plan, Dialer::new(policy)?, environment);
    Ok(judge(&context, start).await)
}

fn read_plan(path: &Path) -> Result<Plan, RunError> {
    use std::io::Read;
    let unread = |error| RunError::Read(path.to_owned(), error);
    let mut bytes = Vec::new();
    std::fs::File::open(path).map_err(unread)?.take(MAX_PLAN_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(unread)?;
    Plan::parse(&bytes).map_err(|error| RunError::Plan(path.to_owned(), error))
}

/// Checks, data, tracker run and report, in this order; what failed ends the order.
pub async fn judge(context: &Context, start: Instant) -> Verdict {
    let plan = &context.plan;
    let deadlines = plan.deadlines;
    let mut checks = checks::prove(context, start + Duration::from_secs(deadlines.credentials_seconds.into())).await;
    let is_claimed = checks.iter().any(|check| check.name == CheckName::Claim && check.passed);
    let mut data = None;
    let mut bad_rows = Value::Null;
    if plan.convert_data && passed(&checks) {
        let prepared = stage::prepare(context, start + Duration::from_secs(deadlines.data_seconds.into())).await;
        checks.extend(prepared.checks);
        data = prepared.report;
        bad_rows = prepared.bad_rows;
    }
    let mut mlflow = None;
    if let Some(target) = plan.mlflow.as_ref().filter(|_| passed(&checks)) {
        match checks::make_run(context, target).await {
            Ok(run) => mlflow = Some(run),
            Err(failure) => {
                checks.retain(|check| check.name != CheckName::Mlflow);
                checks.push(failure.into_check(CheckName::Mlflow, checks::MLFLOW_FIELD));
            }
        }
    }
    let verdict = Verdict::new(plan.spec_hash.clone(), checks, data, mlflow);
    report(context, &verdict, bad_rows, is_claimed).await;
    verdict
}

fn passed(checks: &[Check]) -> bool {
    checks.iter().all(|check| check.passed)
}

/// One line a check, then the whole report, which also goes to the run's folder if that is the run's.
async fn report(context: &Context, verdict: &Verdict, bad_rows: Value, is_claimed: bool) {
    for check in &verdict.checks {
        say(&line(check));
    }
    let report = json!({"version": 1, "verdict": verdict, "badRows": bad_rows}).to_string();
    say(&report);
    if !is_claimed {
        return;
    }
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

/// Standard output is where the report belongs; a reader that is gone stops nothing.
fn say(line: &str) {
    use std::io::Write;
    let clean: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let _ = writeln!(std::io::stdout(), "{clean}");
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
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
