//! Metric families of the operator. Every label comes from a closed list: no name of a run, a namespace or an image.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::api::status::{FailureClass, Phase, Stage};
use crate::report::Answer;

/// One label with its value.
type Label = [(&'static str, &'static str); 1];
type Counters = Family<Label, Counter>;

const PHASES: [Phase; 8] =
    [Phase::Pending, Phase::Queued, Phase::Starting, Phase::Running, Phase::Terminating, Phase::Completed, Phase::Stopped, Phase::Failed];
const STAGES: [Stage; 4] = [Stage::Preflight, Stage::Convert, Stage::Train, Stage::Register];
const CLASSES: [FailureClass; 9] = [
    FailureClass::UserError,
    FailureClass::DataError,
    FailureClass::CredentialError,
    FailureClass::OutOfMemory,
    FailureClass::Diverged,
    FailureClass::Preempted,
    FailureClass::NodeLost,
    FailureClass::Stalled,
    FailureClass::Infrastructure,
];

/// A reconcile takes some requests to the API server; past a minute its limit ends it.
const RECONCILE_SECONDS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];

/// All families; a clone counts into the same ones.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    runs: Family<Label, Gauge>,
    unreadable: Gauge,
    reconciles: Counters,
    reconcile_seconds: Histogram,
    status_writes: Counter,
    jobs_created: Counters,
    attempts_ended: Counters,
    preflight_verdicts: Counters,
    reports: Counters,
    gpu_hours_used: Counter<f64, AtomicU64>,
    gpu_hours_lost: Counter<f64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Families with every label at zero, so that a rate is right from the first event on.
    #[must_use]
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Arc::default(),
            runs: Family::default(),
            unreadable: Gauge::default(),
            reconciles: Family::default(),
            reconcile_seconds: Histogram::new(RECONCILE_SECONDS),
            status_writes: Counter::default(),
            jobs_created: Family::default(),
            attempts_ended: Family::default(),
            preflight_verdicts: Family::default(),
            reports: Family::default(),
            gpu_hours_used: Counter::default(),
            gpu_hours_lost: Counter::default(),
        };
        metrics.runs_by_phase([]);
        for result in ["ok", "error"] {
            metrics.reconciles.get_or_create(&[("result", result)]).inc_by(0);
        }
        for stage in STAGES {
            metrics.jobs_created.get_or_create(&[("stage", stage.as_str())]).inc_by(0);
        }
        for answer in Answer::ALL {
            metrics.reports.get_or_create(&[("answer", answer.as_str())]).inc_by(0);
        }
        for class in CLASSES.map(Some).into_iter().chain([None]) {
            metrics.attempts_ended.get_or_create(&[("class", class_label(class))]).inc_by(0);
            metrics.preflight_verdicts.get_or_create(&[("class", class_label(class))]).inc_by(0);
        }
        metrics.registry = Arc::new(metrics.registered());
        metrics
    }

    fn registered(&self) -> Registry {
        let mut registry = Registry::with_prefix("finetune");
        registry.register("runs", "Runs by phase", self.runs.clone());
        registry.register("unreadable_objects", "Stored objects that do not fit their schema and are left alone", self.unreadable.clone());
        registry.register("reconciles", "Reconciles by result", self.reconciles.clone());
        registry.register("reconcile_duration_seconds", "Time that a reconcile took", self.reconcile_seconds.clone());
        registry.register("status_writes", "Writes of a run's status", self.status_writes.clone());
        registry.register("jobs_created", "Jobs created by stage", self.jobs_created.clone());
        registry.register("attempts_ended", "Training attempts by how they ended", self.attempts_ended.clone());
        registry.register("preflight_verdicts", "Preflights by how they ended", self.preflight_verdicts.clone());
        registry.register("reports", "Posts of trainers by answer", self.reports.clone());
        registry.register("gpu_hours_used", "GPU-hours of ended attempts", self.gpu_hours_used.clone());
        registry.register("gpu_hours_lost", "GPU-hours spent on steps that no checkpoint kept", self.gpu_hours_lost.clone());
        registry
    }

    /// How many runs there are in each phase now; phases that are not named have none.
    pub fn runs_by_phase(&self, phases: impl IntoIterator<Item = Phase>) {
        let mut counts = PHASES.map(|phase| (phase, 0));
        for phase in phases {
            for (one, count) in &mut counts {
                *count += i64::from(*one == phase);
            }
        }
        for (phase, count) in counts {
            self.runs.get_or_create(&[("phase", phase_label(phase))]).set(count);
        }
    }

    /// How many stored objects cannot be read now.
    pub fn unreadable(&self, count: usize) {
        self.unreadable.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// A reconcile ended.
    pub fn reconciled(&self, took: Duration, ok: bool) {
        self.reconciles.get_or_create(&[("result", if ok { "ok" } else { "error" })]).inc();
        self.reconcile_seconds.observe(took.as_secs_f64());
    }

    /// A status was written.
    pub fn status_written(&self) {
        self.status_writes.inc();
    }

    /// A Job was created.
    pub fn job_created(&self, stage: Stage) {
        self.jobs_created.get_or_create(&[("stage", stage.as_str())]).inc();
    }

    /// A training attempt ended, well without a class, and what it cost; numbers below zero count as zero.
    pub fn attempt_ended(&self, class: Option<FailureClass>, gpu_hours: f64, lost: f64) {
        self.attempts_ended.get_or_create(&[("class", class_label(class))]).inc();
        self.gpu_hours_used.inc_by(gpu_hours.max(0.0));
        self.gpu_hours_lost.inc_by(lost.max(0.0));
    }

    /// A preflight ended, well without a class.
    pub fn preflight_ended(&self, class: Option<FailureClass>) {
        self.preflight_verdicts.get_or_create(&[("class", class_label(class))]).inc();
    }

    /// A post was answered.
    pub(crate) fn report_answered(&self, answer: Answer) {
        self.reports.get_or_create(&[("answer", answer.as_str())]).inc();
    }

    /// All families in the text format of `OpenMetrics`.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

fn phase_label(phase: Phase) -> &'static str {
    match phase {
        Phase::Pending => "Pending",
        Phase::Queued => "Queued",
        Phase::Starting => "Starting",
        Phase::Running => "Running",
        Phase::Terminating => "Terminating",
        Phase::Completed => "Completed",
        Phase::Stopped => "Stopped",
        Phase::Failed => "Failed",
    }
}

fn class_label(class: Option<FailureClass>) -> &'static str {
    match class {
        None => "None",
        Some(FailureClass::UserError) => "UserError",
        Some(FailureClass::DataError) => "DataError",
        Some(FailureClass::CredentialError) => "CredentialError",
        Some(FailureClass::OutOfMemory) => "OutOfMemory",
        Some(FailureClass::Diverged) => "Diverged",
        Some(FailureClass::Preempted) => "Preempted",
        Some(FailureClass::NodeLost) => "NodeLost",
        Some(FailureClass::Stalled) => "Stalled",
        Some(FailureClass::Infrastructure) => "Infrastructure",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines with a value other than zero, without the buckets of the histogram.
    fn counted(metrics: &Metrics) -> Vec<String> {
        let text = metrics.text().unwrap();
        let mut lines: Vec<String> = text
            .lines()
            .filter(|line| !line.starts_with('#') && !line.contains("_bucket") && !line.ends_with(" 0") && !line.ends_with(" 0.0"))
            .map(str::to_owned)
            .collect();
        lines.sort();
        lines
    }

    #[test]
    fn every_label_is_there_from_the_start_at_zero() {
        let metrics = Metrics::new();
        assert_eq!(counted(&metrics), Vec::<String>::new());
        let text = metrics.text().unwrap();
        assert_eq!(text.lines().filter(|line| line.starts_with("finetune_runs{")).count(), 8);
        assert_eq!(text.lines().filter(|line| line.starts_with("finetune_reports_total{")).count(), 11);
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn what_happened_is_counted_where_it_belongs_and_nowhere_else() {
        let metrics = Metrics::new();
        metrics.runs_by_phase([Phase::Running, Phase::Failed, Phase::Running]);
        metrics.unreadable(2);
        metrics.reconciled(Duration::from_millis(500), true);
        metrics.reconciled(Duration::from_millis(250), false);
        metrics.status_written();
        metrics.job_created(Stage::Train);
        metrics.attempt_ended(Some(FailureClass::NodeLost), 1.5, 0.5);
        metrics.attempt_ended(None, f64::NAN, -1.0);
        metrics.preflight_ended(Some(FailureClass::DataError));
        metrics.report_answered(Answer::Accepted);
        assert_eq!(
            counted(&metrics),
            [
                "finetune_attempts_ended_total{class=\"NodeLost\"} 1",
                "finetune_attempts_ended_total{class=\"None\"} 1",
                "finetune_gpu_hours_lost_total 0.5",
                "finetune_gpu_hours_used_total 1.5",
                "finetune_jobs_created_total{stage=\"train\"} 1",
                "finetune_preflight_verdicts_total{class=\"DataError\"} 1",
                "finetune_reconcile_duration_seconds_count 2",
                "finetune_reconcile_duration_seconds_sum 0.75",
                "finetune_reconciles_total{result=\"error\"} 1",
                "finetune_reconciles_total{result=\"ok\"} 1",
                "finetune_reports_total{answer=\"accepted\"} 1",
                "finetune_runs{phase=\"Failed\"} 1",
                "finetune_runs{phase=\"Running\"} 2",
                "finetune_status_writes_total 1",
                "finetune_unreadable_objects 2"
            ]
        );
        metrics.runs_by_phase([Phase::Completed]);
        assert!(metrics.text().unwrap().contains("finetune_runs{phase=\"Running\"} 0"), "a phase that nobody is in any more");
    }
}
