//! Datasets of the hub: which files are a split, and how they are read. Asks the hub's HTTP API.

use std::sync::Arc;

use object_store::path::Path;
use reqwest::{Method, RequestBuilder};
use serde_json::Value;
use url::Url;

use super::{Hub, plain, siblings};
use crate::api::TaskType;
use crate::api::secret_ref::SecretKind;
use crate::data::adapter::Adapter;
use crate::data::prepare::Source;
use crate::data::source::Location;
use crate::preflight::checks::Context;
use crate::preflight::dial::{Answer, Dialer, Login, Silence};
use crate::preflight::failure::{Asked, Failure};
use crate::preflight::remote::{Page, Protocol, Remote};

/// Names of files whose rows can be read.
const READABLE: [&str; 8] = [".parquet", ".jsonl", ".json", ".jsonl.gz", ".jsonl.zst", ".jsonl.zstd", ".json.gz", ".json.zst"];
/// The most files of one split.
const MAX_FILES: usize = 10_000;

/// The files of `entity/dataset/split`, or `dataset/split`: the dataset can be read, has no subsets, and has the split. What the hub itself
/// converted to Parquet comes first, as it is what `datasets` would load; else the dataset's own files.
pub(in crate::preflight) async fn split(context: &Context, name: &str) -> Result<(Source, Asked), Failure> {
    if context.plan.task_type == TaskType::ContinuedPretrain {
        return Err(Failure::user("PlaceInvalid", format!("{name} is a dataset, but this task reads a folder of .txt files; name one")));
    }
    let Some((dataset, split)) = name.rsplit_once('/') else {
        return Err(Failure::user("PlaceInvalid", format!("{name} names no split: write entity/dataset/split")));
    };
    if dataset.split('/').count() > 2 {
        return Err(Failure::user("PlaceInvalid", format!("{name} has too many parts: write entity/dataset/split")));
    }
    let (dataset, split) = (plain(dataset)?, plain(split)?);
    let hub = Hub::new(context);
    let doing = format!("read the dataset {dataset} on the hub");
    let about = hub.ask(&format!("/api/datasets/{dataset}"), &doing).await?;
    if about.status != 200 {
        return Err(hub.refusal("dataset", &doing, &about));
    }
    let converted = hub.ask(&format!("/api/datasets/{dataset}/parquet"), &doing).await?;
    let subsets = (converted.status == 200).then(|| converted.body.as_object().cloned()).flatten().unwrap_or_default();
    let configs = about.body["cardData"]["configs"].as_array().map_or(0, Vec::len);
    let count = subsets.len().max(configs);
    if count > 1 {
        let message = format!("the dataset {dataset} has {count} subsets, which are not supported; use a dataset without");
        return Err(Failure::user("DatasetHasSubsets", message));
    }
    let (config, splits) = subsets.into_iter().next().unwrap_or_default();
    let own = own_files(&about, split);
    let (base, names) = if let Some(files) = splits[split].as_array().filter(|files| !files.is_empty()) {
        let base = format!("api/datasets/{dataset}/parquet/{}/{split}", plain(&config)?);
        (base, (0..files.len()).map(|number| format!("{number}.parquet")).collect())
    } else if !own.is_empty() {
        let revision = about.body["sha"].as_str().unwrap_or("main");
        (format!("datasets/{dataset}/resolve/{}", plain(revision)?), own)
    } else if converted.is_transient() || matches!(converted.status, 401 | 403) {
        return Err(hub.refusal("dataset", &doing, &converted));
    } else {
        return Err(missing(dataset, split, splits.as_object().into_iter().flat_map(|splits| splits.keys().cloned()).collect(), &about));
    };
    if names.len() > MAX_FILES {
        return Err(Failure::user("TooManyFiles", format!("{name} has {} files, at most {MAX_FILES} are read: join them", names.len())));
    }
    let base = Url::parse(&format!("{}/{base}", hub.address)).map_err(|_| Failure::user("PlaceInvalid", format!("{name} is no name on the hub")))?;
    let store = Arc::new(Remote::new(context.dialer.clone(), Files { base, login: hub.login.clone() }));
    let place = |file: &String| {
        let path = Path::parse(file).map_err(|_| Failure::user("PlaceInvalid", format!("{name} has a file whose name cannot be used; rename it")))?;
        Ok(Location { store: Arc::clone(&store) as Arc<_>, path, name: format!("{name}/{file}"), file: None })
    };
    let places = names.iter().map(place).collect::<Result<Vec<_>, Failure>>()?;
    let secret = context.secrets.of(SecretKind::Hf).map(|secret| secret.name.clone());
    let asked = Asked { place: name.to_owned(), bucket: dataset.to_owned(), secret, keys: "HF_TOKEN" };
    Ok((Source { places, adapter: Adapter::of(dataset) }, asked))
}

fn missing(dataset: &str, split: &str, mut known: Vec<String>, about: &Answer) -> Failure {
    known.extend(splits_of(about));
    known.dedup();
    if known.iter().any(|known| known == split) {
        let message = format!(
            "the dataset {dataset} has no file of the split {split} that is Parquet or JSON lines, and the hub has not converted it; upload such a file to \
             the dataset"
        );
        return Failure::user("NoReadableFiles", message);
    }
    let known: Vec<_> = known.iter().take(8).map(|split| split.chars().filter(|c| !c.is_control()).take(64).collect::<String>()).collect();
    let known = if known.is_empty() { "none that is known".to_owned() } else { known.join(", ") };
    Failure::user("SplitMissing", format!("the dataset {dataset} has no split {split}; it has {known}"))
}

/// The dataset's own files of a split: those that its card names, else those whose name, or a folder of them, is the split's.
fn own_files(about: &Answer, split: &str) -> Vec<String> {
    let readable = siblings(about).into_iter().filter(|file| READABLE.iter().any(|end| file.ends_with(end)));
    let texts = |value: &Value| -> Vec<String> {
        let many = value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
        value.as_str().map(str::to_owned).into_iter().chain(many).collect()
    };
    let card = &about.body["cardData"]["configs"][0]["data_files"];
    let of_split = card.as_array().into_iter().flatten().filter(|entry| entry["split"] == split);
    let patterns: Vec<String> = of_split.flat_map(|entry| texts(&entry["path"])).collect();
    let mut files: Vec<String> = if patterns.is_empty() {
        readable.filter(|file| is_named(file, split)).map(str::to_owned).collect()
    } else {
        readable.filter(|file| patterns.iter().any(|pattern| matches(pattern.as_bytes(), file.as_bytes()))).map(str::to_owned).collect()
    };
    files.sort();
    files
}

fn is_named(file: &str, split: &str) -> bool {
    let (folders, name) = file.rsplit_once('/').unwrap_or(("", file));
    name.strip_prefix(split).is_some_and(|rest| rest.starts_with(['.', '-', '_'])) || folders.split('/').any(|folder| folder == split)
}

/// Whether a name is as a pattern with `*` (within a folder), `**/` (any folders) and `?` says. Time is bounded by the product of both lengths.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    // Where in the name the pattern so far may end.
    let mut ends = vec![false; name.len() + 1];
    ends[0] = true;
    let mut rest = pattern;
    while let Some((&first, behind)) = rest.split_first() {
        let mut next = vec![false; name.len() + 1];
        if let Some(behind) = rest.strip_prefix(b"**/") {
            let from = ends.iter().position(|end| *end).unwrap_or(ends.len());
            for at in from..ends.len() {
                next[at] = ends[at] || (at > 0 && at > from && name[at - 1] == b'/');
            }
            rest = behind;
        } else if first == b'*' {
            for at in 0..ends.len() {
                next[at] = ends[at] || (at > 0 && next[at - 1] && name[at - 1] != b'/');
            }
            rest = behind;
        } else {
            for at in 1..ends.len() {
                next[at] = ends[at - 1] && (name[at - 1] == first || (first == b'?' && name[at - 1] != b'/'));
            }
            rest = behind;
        }
        ends = next;
    }
    ends[name.len()]
}

/// The splits that a dataset's card, or else the names of its files, tell of.
fn splits_of(about: &Answer) -> Vec<String> {
    let info = &about.body["cardData"]["dataset_info"];
    let info = info.as_array().and_then(|all| all.first()).unwrap_or(info);
    let named: Vec<String> = info["splits"].as_array().into_iter().flatten().filter_map(|split| split["name"].as_str()).map(str::to_owned).collect();
    if !named.is_empty() {
        return named;
    }
    let files = siblings(about).into_iter().filter(|file| READABLE.iter().chain(&[".csv"]).any(|end| file.ends_with(end)));
    let mut splits: Vec<String> =
        files.filter_map(|file| Some(file.rsplit('/').next()?.split(['-', '.']).next().unwrap_or_default().to_owned())).collect();
    splits.sort();
    splits.dedup();
    splits
}

/// Files below one address of the hub, which may send on to another host.
struct Files {
    base: Url,
    login: Login,
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Files({})", self.base)
    }
}

#[async_trait::async_trait]
impl Protocol for Files {
    const NAME: &'static str = "hub";
    const FOLLOWS: bool = true;

    fn object(&self, path: &Path) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.extend(path.parts().map(|part| part.as_ref().to_owned()));
        }
        url
    }

    /// Nothing is written: the hub refuses it.
    fn target(&self, path: &Path, _: bool) -> Url {
        self.object(path)
    }

    /// Nothing is listed: the names are known.
    fn listing(&self, folder: &Path, _: Option<&str>) -> Url {
        self.object(folder)
    }

    fn page(&self, _: &Path, _: &Value) -> Option<Page> {
        Some(Page::default())
    }

    fn request(&self, dialer: &Dialer, method: Method, url: &Url) -> Result<RequestBuilder, Silence> {
        // The signed address of another host needs no token, and must not see it.
        dialer.request(method, url, if url.origin() == self.base.origin() { &self.login } else { &Login::Nobody })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn files(card: &Value, names: &[&str]) -> Vec<String> {
        let siblings: Vec<_> = names.iter().map(|name| json!({"rfilename": name})).collect();
        own_files(&Answer { status: 200, body: json!({"cardData": {"configs": card}, "siblings": siblings}), location: None }, "train")
    }

    #[test]
    fn files_belong_to_a_split_by_the_card_or_by_their_names() {
        let all = [
            "README.md",
            "data/train-00001-of-00002.parquet",
            "data/train-00000-of-00002.parquet",
            "data/test-0.parquet",
            "train.jsonl.gz",
            "a/train/x.jsonl",
        ];
        let card = json!([{"config_name": "default", "data_files": [{"split": "test", "path": "x"}, {"split": "train", "path": ["data/train-*"]}]}]);
        assert_eq!(files(&card, &all), ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"]);
        let named = ["a/train/x.jsonl", "data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "train.jsonl.gz"];
        assert_eq!(files(&json!(null), &all), named);
        assert_eq!(files(&json!([]), &["training.jsonl", "train", "train.csv", "trainer/x.json", "test/train.txt"]), [""; 0]);
    }

    #[test]
    fn patterns_mean_what_they_mean_elsewhere() {
        for (pattern, name, expected) in [
            ("data/*.parquet", "data/a.parquet", true),
            ("data/*.parquet", "data/b/a.parquet", false),
            ("**/*.jsonl", "a/b/c.jsonl", true),
            ("**/*.jsonl", "c.jsonl", true),
            ("a/**/c", "a/c", true),
            ("a/**/c", "a/b/b/c", true),
            ("a/**/c", "a/bc", false),
            ("train-?.json", "train-1.json", true),
            ("train.json", "train-json", false),
            ("", "", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }

    proptest! {
        #[test]
        fn a_name_matches_itself(name in "[a-z/.-]{0,30}") {
            prop_assert!(matches(name.as_bytes(), name.as_bytes()));
        }
    }
}
