//! Whether the places that a run names are of a kind that is supported: by their spelling alone, nothing is dialled. Pure.

use crate::api::FinetuneRunSpec;
use crate::preflight::place::Place;

use super::endpoint;
use super::resolve::Refusal;

/// Refuses the first place that no stage could read.
pub(super) fn check(spec: &FinetuneRunSpec, allowed_endpoints: &[String]) -> Result<(), Refusal> {
    if spec.save_folder.contains(['{', '}']) {
        // The engine takes braces in names of its checkpoints for placeholders.
        let message = "spec.saveFolder holds a brace, which the engine takes for a placeholder: choose a path without { and }";
        return Err(Refusal::new("UnsupportedPath", "spec.saveFolder", message.to_owned()));
    }
    let data = [("spec.trainDataPath", Some(&spec.train_data_path)), ("spec.evalDataPath", spec.eval_data_path.as_ref())];
    let weights = ("spec.customWeightsPath", spec.custom_weights_path.as_ref());
    for (field, path) in data.into_iter().chain([weights]) {
        if let Some(why) = path.and_then(|path| refusal(path, allowed_endpoints)) {
            return Err(Refusal::new("UnsupportedPath", field, format!("{field}: {why}")));
        }
    }
    Ok(())
}

fn refusal(path: &str, allowed_endpoints: &[String]) -> Option<String> {
    match Place::parse(path) {
        Err(error) => Some(error.to_string()),
        Ok(Place::Local(_)) => Some(format!(
            "{path} is a local path, which no stage can read: name an object store, a PVC (pvc://claim/path) or a volume (/Volumes/...)"
        )),
        Ok(Place::Web(url)) => endpoint::refusal(url.as_str(), allowed_endpoints).map(|why| format!("{path} {why}")),
        Ok(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_judged_by_their_spelling() {
        for path in ["s3://data/train.jsonl", "https://host.example/train.jsonl", "/Volumes/a/b/c/d.jsonl", "mosaicml/dolly_hhrlhf/train", "a.b.c"] {
            assert_eq!(refusal(path, &[]), None, "{path}");
        }
        for (path, expected) in [
            ("s3://", "s3:// names no bucket: write s3://bucket/path"),
            (
                "/etc/passwd",
                "/etc/passwd is a local path, which no stage can read: name an object store, a PVC (pvc://claim/path) or a volume (/Volumes/...)",
            ),
            ("s3://b/../x", "the path of s3://b/../x has an empty part, `.` or `..`: write it without"),
        ] {
            assert_eq!(refusal(path, &[]).as_deref(), Some(expected), "{path}");
        }
        for path in ["https://169.254.169.254/train.jsonl", "http://host.example/train.jsonl", "file:///etc/passwd"] {
            assert!(refusal(path, &[]).is_some(), "{path}");
        }
    }
}
