//! Follows runs and prints each change of phase, progress and events; reads only.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use finetune_operator::api::status::{Phase, RunEvent};
use finetune_operator::api::{FinetuneRun, FinetuneRunStatus};
use kube::{Api, ResourceExt};

use crate::bed::{Bed, Result, TEAM};

const EVERY: Duration = Duration::from_millis(500);

/// What was printed last of one run.
#[derive(Default)]
struct Printed {
    line: String,
    events: Vec<RunEvent>,
}

/// Prints what happens to runs until a condition holds.
pub(crate) struct Follower<'a> {
    bed: &'a Bed,
    began: Instant,
    printed: HashMap<String, Printed>,
    quiet: bool,
}

impl<'a> Follower<'a> {
    pub(crate) fn new(bed: &'a Bed, quiet: bool) -> Self {
        Self { bed, began: Instant::now(), printed: HashMap::new(), quiet }
    }

    /// Follows `names` until `done` holds for their statuses, in order; fails with their states after `limit`.
    pub(crate) async fn until(
        &mut self,
        names: &[&str],
        limit: Duration,
        mut done: impl FnMut(&[FinetuneRunStatus]) -> bool,
    ) -> Result<Vec<FinetuneRun>> {
        let runs: Api<FinetuneRun> = Api::namespaced(self.bed.client.clone(), TEAM);
        let deadline = Instant::now() + limit;
        loop {
            let mut seen = Vec::new();
            for name in names {
                let run = runs.get(name).await?;
                self.print(&run);
                seen.push(run);
            }
            let statuses: Vec<_> = seen.iter().map(|run| run.status.clone().unwrap_or_default()).collect();
            if done(&statuses) {
                return Ok(seen);
            }
            if Instant::now() > deadline {
                let states: Vec<_> = seen.iter().map(|run| format!("{}: {}", run.name_any(), line(run))).collect();
                return Err(format!("still waiting after {} s: {}", limit.as_secs(), states.join("; ")).into());
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    /// Follows `names` until every one of them has ended for good.
    pub(crate) async fn all_ended(&mut self, names: &[&str], limit: Duration) -> Result<Vec<FinetuneRun>> {
        self.until(names, limit, |all| all.iter().all(|status| status.phase.is_some_and(Phase::is_sink))).await
    }

    fn print(&mut self, run: &FinetuneRun) {
        if self.quiet {
            return;
        }
        let name = run.name_any();
        let clock = self.began.elapsed().as_secs();
        let clock = format!("{:02}:{:02}", clock / 60, clock % 60);
        let printed = self.printed.entry(name.clone()).or_default();
        let events = run.status.as_ref().map(|status| status.events.clone()).unwrap_or_default();
        for event in events.iter().filter(|event| !printed.events.contains(event)) {
            println!("{clock}  {name:<14} * {} {}", event.type_.as_str(), event.message);
        }
        printed.events = events;
        let line = line(run);
        if line != printed.line {
            println!("{clock}  {name:<14} {line}");
            printed.line = line;
        }
    }
}

fn line(run: &FinetuneRun) -> String {
    let status = run.status.clone().unwrap_or_default();
    let Some(phase) = status.phase else { return "created".to_owned() };
    let progress = status.progress.unwrap_or_default();
    let mut line = format!("{phase:?}");
    if let Some(summary) = progress.summary.filter(|_| phase == Phase::Running) {
        let loss = progress.loss.map(|loss| format!("  loss {loss:.2}")).unwrap_or_default();
        let eta = progress.eta.map(|eta| format!("  {eta} left")).unwrap_or_default();
        line = format!("{line} {summary}{loss}{eta}");
    }
    match (status.reason, status.message) {
        (Some(reason), Some(message)) if phase != Phase::Running && phase != Phase::Completed => format!("{line} ({reason}): {message}"),
        (Some(reason), _) if phase == Phase::Running && reason != "Training" => format!("{line} ({reason})"),
        _ => line,
    }
}
