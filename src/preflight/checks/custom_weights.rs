//! `CustomWeights`: the checkpoint to start from is there, and is one file, a pointer, or a folder of shards. Reads names only.

use futures::StreamExt;

use super::{Context, Outcome, head};
use crate::preflight::failure::Failure;

const MAX_LISTED: usize = 10_000;

pub(super) async fn check(context: &Context, text: &str) -> Outcome {
    let opened = context.stores.open(text)?;
    let last = text.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    if is_one_file(last) {
        return match head(&opened).await?.size {
            0 => Err(Failure::user("CheckpointEmpty", format!("{text} is empty; name a complete checkpoint"))),
            _ => Ok(()),
        };
    }
    let mut listing = opened.store.list(Some(&opened.path)).take(MAX_LISTED);
    let mut any = false;
    while let Some(object) = listing.next().await {
        let object = object.map_err(|error| opened.asked.failure("list", &error))?;
        any = true;
        if object.location.extension() == Some("distcp") {
            return Ok(());
        }
    }
    let message = format!("{text} has no .distcp file: name a checkpoint folder, a .symlink or a .pt file");
    Err(if any {
        Failure::user("CheckpointMissing", message)
    } else {
        Failure::user("ObjectMissing", format!("{text} does not exist; name a checkpoint folder, a .symlink or a .pt file"))
    })
}

fn is_one_file(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, ending)| matches!(ending, "pt" | "symlink"))
}
