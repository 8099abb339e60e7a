//! `TrainData` and `EvalData`: the data are there and are not empty. Reads names and sizes, not the data.

use futures::StreamExt;

use super::{Context, Outcome, head, hub, table};
use crate::api::TaskType;
use crate::preflight::failure::Failure;
use crate::preflight::place::Place;
use crate::preflight::store::Opened;

/// A listing longer than this without a text file is given up.
const MAX_LISTED: usize = 100_000;

pub(super) async fn check(context: &Context, text: &str) -> Outcome {
    let place = Place::parse(text).map_err(|error| Failure::user("PlaceInvalid", error.to_string()))?;
    if let Place::Volume(path) = &place {
        volume(context, text, path)?;
    }
    match place {
        Place::Hub(name) => hub::dataset(context, &name).await,
        Place::Table(name) => table::check(context, &name).await,
        _ if context.plan.task_type == TaskType::ContinuedPretrain => folder(&context.stores.open(text)?).await,
        _ => file(&context.stores.open(text)?).await,
    }
}

async fn file(opened: &Opened) -> Outcome {
    let place = &opened.asked.place;
    if head(opened).await?.size == 0 {
        return Err(Failure::data("EmptyData", format!("{place} is empty: it needs at least one row")));
    }
    Ok(())
}

async fn folder(opened: &Opened) -> Outcome {
    let place = &opened.asked.place;
    let mut listing = opened.store.list(Some(&opened.path)).take(MAX_LISTED);
    let mut objects = 0_usize;
    let mut empty = 0_usize;
    while let Some(object) = listing.next().await {
        let object = object.map_err(|error| opened.asked.failure("list", &error))?;
        objects += 1;
        if object.location.extension() == Some("txt") {
            if object.size > 0 {
                return Ok(());
            }
            empty += 1;
        }
    }
    Err(match (objects, empty) {
        (0, _) => Failure::user("ObjectMissing", format!("{place} is no folder with files; upload .txt files to it or name another folder")),
        (_, 0) => Failure::data("NoTextFiles", format!("{place} has no .txt file, and only these are read; add some or name another folder")),
        _ => Failure::data("EmptyData", format!("{place} has only empty .txt files; fill them or name another folder")),
    })
}

/// The rules of the hosted services for volumes; what lies there is asked as in any other store.
fn volume(context: &Context, text: &str, path: &str) -> Outcome {
    if !path.starts_with("/Volumes/") || path.split('/').filter(|part| !part.is_empty()).count() < 4 {
        return Err(Failure::user("PlaceInvalid", format!("{text} is no volume: write dbfs:/Volumes/<catalog>/<schema>/<volume>/<path>")));
    }
    let is_rows = [".jsonl", ".jsonl.gz", ".jsonl.zst", ".jsonl.zstd"].iter().any(|end| path.ends_with(end));
    if context.plan.task_type != TaskType::ContinuedPretrain && !is_rows {
        return Err(Failure::user("PlaceInvalid", format!("{text} is no .jsonl file, and of a volume only these are read; name one")));
    }
    Ok(())
}
