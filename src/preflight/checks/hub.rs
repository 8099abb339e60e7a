//! The Hugging Face hub: whether a model is there for this token, and its small files. Asks its HTTP API.

mod dataset;

use bytes::Bytes;
use reqwest::Method;
use serde_json::Value;

use super::{Context, Outcome, model};
use crate::api::secret_ref::SecretKind;
use crate::preflight::dial::{Answer, Login};
use crate::preflight::failure::Failure;

pub(in crate::preflight) use dataset::split;

const MAX_CONFIG_BYTES: usize = 4 * 1024 * 1024;
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

/// `entity/model` has configuration, tokenizer and all of its weights, and the token may read them.
pub(super) async fn model(context: &Context, repository: &str) -> Outcome {
    let hub = Hub::new(context);
    hub.or_bad_token(hub.model(repository).await).await
}

/// The dataset can be read and has the split.
pub(super) async fn dataset(context: &Context, name: &str) -> Outcome {
    Hub::new(context).or_bad_token(split(context, name).await.map(|_| ())).await
}

impl Hub<'_> {
    async fn model(&self, repository: &str) -> Outcome {
        let doing = format!("read the model {repository} on the hub");
        let revision = self.context.plan.model.revision.as_deref().unwrap_or("main");
        let answer = self.ask(&format!("/api/models/{}/revision/{}", plain(repository)?, plain(revision)?), &doing).await?;
        if answer.status != 200 {
            return Err(self.refusal("model", &doing, &answer));
        }
        let files = siblings(&answer);
        let has = |name: &str| files.contains(&name);
        let place = format!("hf://{repository}");
        if !has("config.json") {
            return Err(model::incomplete(&place, "config.json", "configuration"));
        }
        if self.context.plan.model.tokenizer.is_none() && !has("tokenizer.json") {
            return Err(model::no_tokenizer(&place));
        }
        // Of a gated model everybody may read the list, but only whom its owner let in a file.
        self.file(repository, "config.json", MAX_CONFIG_BYTES).await?;
        let Some((index, _)) = model::WEIGHTS.into_iter().find(|(index, single)| has(index) || has(single)) else {
            return Err(model::incomplete(&place, "model.safetensors", "weights"));
        };
        if !has(index) {
            return Ok(());
        }
        let index = self.file(repository, index, model::MAX_INDEX_BYTES).await?.unwrap_or_default();
        let shards = model::shard_names(&index).ok_or_else(|| model::no_shards(&place))?;
        let missing: Vec<_> = shards.into_iter().filter(|shard| !has(shard)).collect();
        model::missing(&place, &missing)
    }

    /// Of a token that is none the hub says only that what is asked for is not there: then the token is what is wrong.
    async fn or_bad_token(&self, result: Outcome) -> Outcome {
        let Err(failure) = result else { return Ok(()) };
        let Some(secret) = self.context.secrets.of(SecretKind::Hf).filter(|_| failure.reason.ends_with("NotAccessible")) else { return Err(failure) };
        if self.ask("/api/whoami-v2", "look up the owner of the token").await?.status != 401 {
            return Err(failure);
        }
        let message = format!("HF_TOKEN of Secret {} is not, or no longer, a token of the hub; put a new one with read access there", secret.name);
        Err(Failure::credential("TokenInvalid", message))
    }
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
