//! The Hugging Face hub: whether a model or a dataset with its split is there for this token. Asks its HTTP API.

use bytes::Bytes;
use reqwest::Method;
use serde_json::Value;

use super::{Context, Outcome, model};
use crate::api::TaskType;
use crate::api::secret_ref::SecretKind;
use crate::preflight::dial::{Answer, Login};
use crate::preflight::failure::Failure;

const PUBLIC: &str = "https://huggingface.co";

/// The hub with the run's token.
pub struct Hub<'a> {
    context: &'a Context,
    address: String,
    login: Login,
}

impl<'a> Hub<'a> {
    /// The hub that `HF_ENDPOINT` names, or the public one.
    #[must_use]
    pub fn new(context: &'a Context) -> Self {
        let address = context.environment.get("HF_ENDPOINT").map_or(PUBLIC, String::as_str).trim_end_matches('/').to_owned();
        let login = context.secrets.value(SecretKind::Hf, "HF_TOKEN").map_or(Login::Nobody, Login::Token);
        Self { context, address, login }
    }

    async fn ask(&self, path: &str, doing: &str) -> Result<Answer, Failure> {
        let answer = self.context.dialer.ask(Method::GET, &format!("{}{path}", self.address), &self.login, None).await;
        answer.map_err(|silence| Failure::of_silence(doing, &silence))
    }

    fn credential(&self) -> String {
        match self.context.secrets.of(SecretKind::Hf) {
            Some(secret) => format!("the token of Secret {}", secret.name),
            None => "nobody: the run names no Secret of kind hf".to_owned(),
        }
    }

    /// The hub answers 401 or 404 for what is private, and 403 for what is gated.
    fn refusal(&self, what: &str, doing: &str, answer: &Answer) -> Failure {
        match answer.status {
            401 | 403 | 404 => {
                let message = format!(
                    "cannot {doing}: the hub answered {} to {}; check the name, and that access to the {what} was granted to that token",
                    answer.status,
                    self.credential()
                );
                let reason = format!("{}NotAccessible", if what == "model" { "Model" } else { "Dataset" });
                if answer.status == 404 { Failure::user(&reason, message) } else { Failure::credential(&reason, message) }
            }
            _ => Failure::of_answer(doing, answer, &self.credential()),
        }
    }
}

/// `entity/model` has configuration, tokenizer and weights.
pub(super) async fn model(context: &Context, repository: &str) -> Outcome {
    let hub = Hub::new(context);
    let doing = format!("read the model {repository} on the hub");
    let revision = context.plan.model.revision.as_deref().unwrap_or("main");
    let answer = hub.ask(&format!("/api/models/{}/revision/{}", plain(repository)?, plain(revision)?), &doing).await?;
    if answer.status != 200 {
        return Err(hub.refusal("model", &doing, &answer));
    }
    let files = siblings(&answer);
    let has = |name: &str| files.contains(&name);
    let weights = ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"];
    let place = format!("hf://{repository}");
    if !has("config.json") {
        return Err(model::incomplete(&place, "config.json", "configuration"));
    }
    if !has("tokenizer.json") {
        return Err(model::incomplete(&place, "tokenizer.json", "tokenizer"));
    }
    if !weights.iter().any(|name| has(name)) {
        return Err(model::incomplete(&place, "model.safetensors", "weights"));
    }
    Ok(())
}

/// `entity/dataset/split`, or `dataset/split`: the dataset can be read, has no subsets, and has the split.
pub(super) async fn dataset(context: &Context, name: &str) -> Outcome {
    if context.plan.task_type == TaskType::ContinuedPretrain {
        return Err(Failure::user("PlaceInvalid", format!("{name} is a dataset, but this task reads a folder of .txt files; name one")));
    }
    let Some((dataset, split)) = name.rsplit_once('/') else {
        return Err(Failure::user("PlaceInvalid", format!("{name} names no split: write entity/dataset/split")));
    };
    if dataset.split('/').count() > 2 {
        return Err(Failure::user("PlaceInvalid", format!("{name} has too many parts: write entity/dataset/split")));
    }
    let hub = Hub::new(context);
    let doing = format!("read the dataset {dataset} on the hub");
    let answer = hub.ask(&format!("/api/datasets/{}", plain(dataset)?), &doing).await?;
    if answer.status != 200 {
        return Err(hub.refusal("dataset", &doing, &answer));
    }
    let converted = hub.ask(&format!("/api/datasets/{}/parquet", plain(dataset)?), &doing).await?;
    let subsets = (converted.status == 200).then(|| converted.body.as_object().cloned()).flatten().unwrap_or_default();
    if subsets.len() > 1 {
        return Err(Failure::user(
            "DatasetHasSubsets",
            format!("the dataset {dataset} has {} subsets, which are not supported; use a dataset without", subsets.len()),
        ));
    }
    let mut splits: Vec<String> = subsets.values().filter_map(Value::as_object).flat_map(|splits| splits.keys().cloned()).collect();
    if splits.is_empty() {
        splits = splits_of(&answer);
    }
    if splits.is_empty() && (converted.is_transient() || matches!(converted.status, 401 | 403)) {
        return Err(hub.refusal("dataset", &doing, &converted));
    }
    if splits.iter().any(|found| found == split) {
        return Ok(());
    }
    let known: Vec<_> = splits.iter().take(8).map(|split| split.chars().filter(|c| !c.is_control()).take(64).collect::<String>()).collect();
    let message = format!(
        "the dataset {dataset} has no split {split}; it has {}",
        if known.is_empty() { "none that is known".to_owned() } else { known.join(", ") }
    );
    Err(Failure::user("SplitMissing", message))
}

/// The splits that a dataset's card, or else the names of its files, tell of.
fn splits_of(answer: &Answer) -> Vec<String> {
    let info = &answer.body["cardData"]["dataset_info"];
    let info = info.as_array().and_then(|all| all.first()).unwrap_or(info);
    let named: Vec<String> = info["splits"].as_array().into_iter().flatten().filter_map(|split| split["name"].as_str()).map(str::to_owned).collect();
    if !named.is_empty() {
        return named;
    }
    let mut splits: Vec<String> = siblings(answer)
        .into_iter()
        .filter_map(|file| {
            let name = file.rsplit('/').next()?;
            let known = [".jsonl", ".json", ".parquet", ".csv", ".jsonl.gz", ".jsonl.zst"].iter().any(|end| name.ends_with(end));
            known.then(|| name.split(['-', '.']).next().unwrap_or_default().to_owned())
        })
        .collect();
    splits.sort();
    splits.dedup();
    splits
}

fn siblings(answer: &Answer) -> Vec<&str> {
    answer.body["siblings"].as_array().into_iter().flatten().filter_map(|file| file["rfilename"].as_str()).collect()
}

/// A name that becomes part of an address: it adds no query and leaves no folder.
fn plain(name: &str) -> Result<&str, Failure> {
    let fine = name.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-._/".contains(c));
    fine.then_some(name)
        .ok_or_else(|| Failure::user("PlaceInvalid", format!("{name} is no name on the hub: letters, digits, dashes, dots and _ only")))
}

impl Hub<'_> {
    /// A small file of the model, at the plan's revision; none when it has no such file.
    pub async fn file(&self, repository: &str, name: &str, limit: usize) -> Result<Option<Bytes>, Failure> {
        let revision = self.context.plan.model.revision.as_deref().unwrap_or("main");
        let doing = format!("read {name} of the model {repository} on the hub");
        let address = format!("{}/{}/resolve/{}/{name}", self.address, plain(repository)?, plain(revision)?);
        let answer = self.context.dialer.download(&address, &self.login, limit).await;
        let (status, bytes) = answer.map_err(|silence| Failure::of_silence(&doing, &silence))?;
        match status {
            200 => Ok(Some(bytes)),
            404 => Ok(None),
            _ => Err(self.refusal("model", &doing, &Answer { status, body: Value::Null, location: None })),
        }
    }
}
