//! `CustomWeights`: the checkpoint to start from is there, and is one file, a pointer, or a folder of shards. Reads names only.

use futures::StreamExt;
use object_store::path::Path;

use super::service::Service;
use super::{Context, Outcome, head};
use crate::preflight::failure::Failure;
use crate::preflight::place::Place;
use crate::preflight::store::Opened;

const MAX_LISTED: usize = 10_000;
const MOST_PAGES: usize = 100;

pub(super) async fn check(context: &Context, text: &str) -> Outcome {
    let place = Place::parse(text).map_err(|error| Failure::user("PlaceInvalid", error.to_string()))?;
    if let Place::Volume(path) = &place
        && path.starts_with("/databricks/")
    {
        return artifact(context, text, path).await;
    }
    let opened = context.stores.open(text)?;
    if is_one_file(text) {
        return match head(&opened).await?.size {
            0 => Err(Failure::user("CheckpointEmpty", format!("{text} is empty; name a complete checkpoint"))),
            _ => Ok(()),
        };
    }
    folder(text, &opened).await
}

async fn folder(text: &str, opened: &Opened) -> Outcome {
    let mut listing = opened.store.list(Some(&opened.path)).take(MAX_LISTED);
    let mut any = false;
    let mut below: Option<Path> = None;
    while let Some(object) = listing.next().await {
        let location = object.map_err(|error| opened.asked.failure("list", &error))?.location;
        any = true;
        if location.extension() == Some("distcp") {
            if location.prefix_match(&opened.path).is_some_and(|parts| parts.count() == 1) {
                return Ok(());
            }
            below = Some(location);
        }
    }
    Err(match below {
        Some(shard) => {
            let folder: Vec<_> = shard.prefix_match(&opened.path).into_iter().flatten().map(|part| part.as_ref().to_owned()).collect();
            let folder = folder[..folder.len().saturating_sub(1)].join("/");
            let message = format!("{text} has no .distcp file itself, its folder {folder} has: name that one");
            Failure::user("CheckpointMissing", message)
        }
        None if any => no_shards(text),
        None => Failure::user("ObjectMissing", format!("{text} does not exist; name a checkpoint folder, a .symlink or a .pt file")),
    })
}

fn no_shards(text: &str) -> Failure {
    Failure::user("CheckpointMissing", format!("{text} has no .distcp file: name a checkpoint folder, a .symlink or a .pt file"))
}

fn is_one_file(path: &str) -> bool {
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    name.rsplit_once('.').is_some_and(|(_, ending)| matches!(ending, "pt" | "symlink"))
}

/// `/databricks/mlflow-tracking/<experiment>/<run>/artifacts/<path>`: the run and the path below its artifacts.
fn tracked(path: &str) -> Option<(&str, &str)> {
    let (experiment, rest) = path.strip_prefix("/databricks/mlflow-tracking/")?.split_once('/')?;
    let (run, rest) = rest.split_once('/')?;
    let below = rest.strip_prefix("artifacts/")?.trim_end_matches('/');
    let fine = !experiment.is_empty()
        && experiment.chars().all(|c| c.is_ascii_digit())
        && !run.is_empty()
        && run.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
        && !below.is_empty()
        && below.chars().all(|c| c.is_ascii_alphanumeric() || " /()_-.".contains(c));
    fine.then_some((run, below))
}

/// A checkpoint that the hosted services left among the artifacts of an MLflow run.
async fn artifact(context: &Context, text: &str, path: &str) -> Outcome {
    let Some((run, below)) = tracked(path) else {
        let message = format!("{text} is no artifact of a run: write dbfs:/databricks/mlflow-tracking/<experiment id>/<run id>/artifacts/<path>");
        return Err(Failure::user("PlaceInvalid", message));
    };
    let is_file = is_one_file(below);
    let (parent, name) = below.rsplit_once('/').unwrap_or(("", below));
    if !is_file && name.contains('.') {
        return Err(Failure::user("PlaceInvalid", format!("{text} is no checkpoint: name a checkpoint folder, a .symlink or a .pt file")));
    }
    let workspace = Service::databricks(context)?;
    let doing = format!("list the artifacts of run {run} at {}", workspace.address);
    let folder = if is_file { parent } else { below };
    let path = (!folder.is_empty()).then_some(("path", folder));
    let query: Vec<_> = [("run_id", run)].into_iter().chain(path).collect();
    let files = workspace.all("/api/2.0/mlflow/artifacts/list", &query, "files", MOST_PAGES, &doing).await?;
    let missing = || Failure::user("ObjectMissing", format!("{text} does not exist; name a checkpoint folder, a .symlink or a .pt file"));
    let files = match files {
        Ok(files) => files,
        Err(answer) if answer.status == 404 => return Err(missing()),
        Err(answer) => return Err(workspace.failure(&doing, &answer)),
    };
    let mut paths = files.iter().filter_map(|file| file["path"].as_str());
    match is_file {
        true if paths.any(|path| path == below) => Ok(()),
        false if paths.any(|path| path.ends_with(".distcp")) => Ok(()),
        false if !files.is_empty() => Err(no_shards(text)),
        _ => Err(missing()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_artifact_is_named_by_experiment_run_and_path() {
        let root = "/databricks/mlflow-tracking";
        assert_eq!(tracked(&format!("{root}/12/ab3/artifacts/x (1)/ep1-ba2")), Some(("ab3", "x (1)/ep1-ba2")));
        for bad in ["12/ab3/artifacts", "12/ab3/artifacts/", "x/ab3/artifacts/y", "12/AB/artifacts/y", "12/ab3/y", "12/ab3/artifacts/y*"] {
            assert_eq!(tracked(&format!("{root}/{bad}")), None, "{bad}");
        }
        assert_eq!(tracked("/databricks/other/12/ab3/artifacts/y"), None);
    }
}
