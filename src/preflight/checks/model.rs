//! `Model`: the base model's configuration, tokenizer and all of its weights are there. Reads the index, not the weights.

use std::collections::BTreeSet;

use futures::{StreamExt, TryStreamExt};
use serde_json::Value;

use super::{Context, Outcome, head, hub, read};
use crate::preflight::failure::{Failure, TOKENIZER_MISSING};
use crate::preflight::place::Place;
use crate::preflight::store::Opened;

pub(super) const MAX_INDEX_BYTES: usize = 32 * 1024 * 1024;
const MAX_SHARDS: usize = 10_000;
const AT_ONCE: usize = 16;
/// Indexes and the single files that stand for them, in the order in which the engine prefers them.
pub(super) const WEIGHTS: [(&str, &str); 2] =
    [("model.safetensors.index.json", "model.safetensors"), ("pytorch_model.bin.index.json", "pytorch_model.bin")];

pub(super) async fn check(context: &Context) -> Outcome {
    let weights = context.weights();
    let place = Place::parse(&weights).map_err(|error| Failure::user("PlaceInvalid", error.to_string()))?;
    if let Place::Hub(repository) = place {
        return hub::model(context, &repository).await;
    }
    let folder = context.stores.open(&weights)?;
    if !exists(&folder.below("config.json")).await? {
        return Err(incomplete(&weights, "config.json", "configuration"));
    }
    if context.plan.model.tokenizer.is_none() && !exists(&folder.below("tokenizer.json")).await? {
        return Err(no_tokenizer(&weights));
    }
    for (index, single) in WEIGHTS {
        let index = folder.below(index);
        if exists(&index).await? {
            return shards(&folder, &index).await;
        }
        if exists(&folder.below(single)).await? {
            return Ok(());
        }
    }
    Err(incomplete(&weights, "model.safetensors", "weights"))
}

pub(super) fn incomplete(place: &str, name: &str, what: &str) -> Failure {
    let message =
        format!("{place} has no {name}, so the model has no {what}; upload the whole model, or ask the administrator to correct the FinetuneModel");
    Failure::user("ModelIncomplete", message)
}

/// The first time this is found the runtime is asked to make the file; the words are for the second time.
pub(in crate::preflight) fn no_tokenizer(place: &str) -> Failure {
    let message =
        format!("{place} has no tokenizer.json, and none could be made of its other files; ask the administrator to correct the FinetuneModel");
    Failure::user(TOKENIZER_MISSING, message)
}

async fn exists(opened: &Opened) -> Result<bool, Failure> {
    match head(opened).await {
        Ok(_) => Ok(true),
        Err(failure) if failure.reason == "ObjectMissing" => Ok(false),
        Err(failure) => Err(failure),
    }
}

async fn shards(folder: &Opened, index: &Opened) -> Outcome {
    let names = shard_names(&read(index, MAX_INDEX_BYTES).await?).ok_or_else(|| no_shards(&index.asked.place))?;
    let missing: Vec<String> = futures::stream::iter(names)
        .map(|name| async move {
            let found = exists(&folder.below(&name)).await?;
            Ok::<_, Failure>((!found).then_some(name))
        })
        .buffered(AT_ONCE)
        .try_filter_map(|missing| async move { Ok(missing) })
        .try_collect()
        .await?;
    self::missing(&folder.asked.place, &missing)
}

pub(super) fn no_shards(place: &str) -> Failure {
    Failure::user("ModelIncomplete", format!("the index of {place} names no shards; upload the whole model again"))
}

pub(super) fn missing(place: &str, missing: &[String]) -> Outcome {
    let Some(first) = missing.first() else { return Ok(()) };
    let message = format!("{place}: {} of the shards that its index lists are missing, {first} among them; upload the whole model", missing.len());
    Err(Failure::user("ModelIncomplete", message))
}

/// The shards that an index lists; none when it lists none, too many, or files of other folders.
#[must_use]
pub fn shard_names(index: &[u8]) -> Option<BTreeSet<String>> {
    let index: Value = serde_json::from_slice(index).ok()?;
    let names: BTreeSet<String> =
        index.get("weight_map")?.as_object()?.values().map(|name| name.as_str().map(str::to_owned)).collect::<Option<_>>()?;
    let plain = |name: &String| !name.is_empty() && !name.contains(['/', '\\']) && name != ".." && name.len() <= 255;
    (!names.is_empty() && names.len() <= MAX_SHARDS && names.iter().all(plain)).then_some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_lists_plain_names_or_nothing() {
        let names = shard_names(br#"{"weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors","c":"m-1.safetensors"}}"#);
        assert_eq!(names, Some(["m-1.safetensors", "m-2.safetensors"].map(str::to_owned).into()));
        for bad in [&b"x"[..], b"{}", br#"{"weight_map":{}}"#, br#"{"weight_map":{"a":1}}"#, br#"{"weight_map":{"a":"../x"}}"#] {
            assert_eq!(shard_names(bad), None);
        }
    }
}
