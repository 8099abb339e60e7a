//! What the demo prints at its end: a table of the runs, why two of them failed, and where to look.

use finetune_operator::api::FinetuneRun;
use finetune_operator::api::status::Phase;
use kube::ResourceExt;

use crate::bed::{Bed, Result, TEAM};
use crate::tracker::Tracker;

const LOSS: &str = "loss/train/total";
const PERPLEXITY: &str = "metrics/eval/LanguagePerplexity";
const HEADER: [&str; 7] = ["RUN", "PHASE", "DURATION", "TRAIN LOSS", "EVAL PERPLEXITY", "CHECKPOINTS", "REGISTERED"];

/// One row for each run, its metrics from `MLflow`.
pub(crate) async fn rows(bed: &Bed, runs: &[FinetuneRun]) -> Result<Vec<[String; 7]>> {
    let tracker = Tracker::new(&bed.mlflow);
    let mut rows = Vec::new();
    for run in runs {
        let status = run.status.clone().unwrap_or_default();
        let (mut loss, mut perplexity) = (String::from("-"), String::from("-"));
        if let Some(mlflow) = status.tracking.as_ref().and_then(|tracking| tracking.mlflow.as_ref()) {
            loss = span(&tracker.history(&mlflow.run_id, LOSS).await?);
            perplexity = span(&tracker.history(&mlflow.run_id, PERPLEXITY).await?);
        }
        let seconds = match (&run.metadata.creation_timestamp, &status.completed_at) {
            (Some(from), Some(to)) => to.0.duration_since(from.0).as_secs(),
            _ => 0,
        };
        rows.push([
            run.name_any(),
            status.phase.map(|phase| format!("{phase:?}")).unwrap_or_default(),
            format!("{}:{:02} min", seconds / 60, seconds % 60),
            loss,
            perplexity,
            status.checkpoints.len().to_string(),
            status.registered_model.map_or_else(|| "-".to_owned(), |model| model.uri),
        ]);
    }
    Ok(rows)
}

fn span(values: &[(i64, f64)]) -> String {
    match (values.first(), values.last()) {
        (Some((_, first)), Some((_, last))) => format!("{first:.2} -> {last:.2}"),
        _ => "-".to_owned(),
    }
}

/// The rows under their header, in columns.
pub(crate) fn table(rows: &[[String; 7]]) -> String {
    let header = HEADER.map(ToOwned::to_owned);
    let all: Vec<_> = std::iter::once(&header).chain(rows).collect();
    let width = |column: usize| all.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let line =
        |row: &[String; 7]| (0..7).map(|i| format!("{:<width$}", row[i], width = width(i))).collect::<Vec<_>>().join("  ").trim_end().to_owned();
    all.iter().map(|row| line(row) + "\n").collect()
}

/// Why runs failed, in their own words.
pub(crate) fn failures(runs: &[FinetuneRun]) -> String {
    let failed = runs.iter().filter(|run| run.status.as_ref().is_some_and(|status| status.phase == Some(Phase::Failed)));
    failed
        .filter_map(|run| {
            let failure = run.status.as_ref()?.failure.as_ref()?;
            Some(format!(
                "{} failed with {:?} ({}): {}\n  hint: {}\n",
                run.name_any(),
                failure.class,
                failure.reason,
                failure.message,
                failure.hint.clone().unwrap_or_default()
            ))
        })
        .collect()
}

/// Prints how to look around and how to take everything down.
pub(crate) async fn where_to_look(bed: &Bed, runs: &[FinetuneRun]) -> Result<()> {
    println!("Look around:");
    println!("  export KUBECONFIG={}", bed.kubeconfig());
    println!("  alias kubectl='{} kubectl'", std::env::var("FINETUNE_TESTBED").unwrap_or_default());
    println!("  kubectl get finetuneruns -n {TEAM}; kubectl describe finetunerun instruction -n {TEAM}; kubectl get finetunemodels");
    for run in runs {
        let status = run.status.clone().unwrap_or_default();
        if let Some(mlflow) = status.tracking.and_then(|tracking| tracking.mlflow) {
            let path = mlflow.url.split_once("/#/").map_or("", |(_, path)| path);
            println!("  MLflow, {}: {}/#/{path}", run.name_any(), bed.mlflow);
        }
    }
    for (key, size) in bed.keys("out", "").await?.iter().filter(|(key, _)| key.contains("/hf_checkpoints/") && key.ends_with("/config.json")) {
        println!("  s3://out/{key} ({size} bytes)");
    }
    println!("Take it down: make down");
    Ok(())
}
