//! Whether the places that a run names are of a kind that is supported: by their spelling alone, nothing is dialled. Pure.

use crate::api::FinetuneRunSpec;

use super::endpoint;
use super::resolve::Refusal;

const STORES: [&str; 5] = ["s3", "gs", "oci", "az", "pvc"];

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
            return Err(Refusal::new("UnsupportedPath", field, format!("{field} {why}")));
        }
    }
    Ok(())
}

fn refusal(path: &str, allowed_endpoints: &[String]) -> Option<String> {
    if path.starts_with('/') {
        let volume = path.starts_with("/Volumes/") || path.starts_with("/databricks/");
        return (!volume).then(|| {
            "is a local path, which no stage can read: name an object store, a PVC (pvc://claim/path) or a volume (/Volumes/...)".to_owned()
        });
    }
    let (scheme, rest) = path.split_once("://")?;
    match scheme {
        "https" => endpoint::refusal(path, allowed_endpoints),
        _ if STORES.contains(&scheme) && rest.trim_matches('/').is_empty() => Some(format!("names no bucket: write {scheme}://bucket/path")),
        _ if STORES.contains(&scheme) => None,
        _ => Some(format!("starts with {scheme}://, which is not supported: use {}:// or https://", STORES.join("://, "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_judged_by_their_spelling() {
        for path in [
            "s3://data/train.jsonl",
            "gs://b/p",
            "oci://b/p",
            "az://b/p",
            "pvc://claim/path",
            "https://host.example/train.jsonl",
            "dbfs:/Volumes/a/b/c/d.jsonl",
            "/Volumes/a/b/c/d.jsonl",
            "mosaicml/dolly_hhrlhf/train",
            "catalog.schema.table",
        ] {
            assert_eq!(refusal(path, &[]), None, "{path}");
        }
        for (path, expected) in [
            ("file:///etc/passwd", "starts with file://, which is not supported: use s3://, gs://, oci://, az://, pvc:// or https://"),
            ("http://host.example/train.jsonl", "starts with http://, which is not supported: use s3://, gs://, oci://, az://, pvc:// or https://"),
            ("/etc/passwd", "is a local path, which no stage can read: name an object store, a PVC (pvc://claim/path) or a volume (/Volumes/...)"),
            ("s3://", "names no bucket: write s3://bucket/path"),
        ] {
            assert_eq!(refusal(path, &[]).as_deref(), Some(expected), "{path}");
        }
        assert!(refusal("https://169.254.169.254/train.jsonl", &[]).is_some());
    }
}
