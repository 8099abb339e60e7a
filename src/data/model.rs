//! The base model's small files, from a store, a volume or the hub; reads only.

use std::time::Duration;

use futures::TryStreamExt as _;
use object_store::ObjectStoreExt as _;
use reqwest::StatusCode;
use reqwest::header::{AUTHORIZATION, LOCATION};
use sha2::{Digest as _, Sha256};
use url::Url;

use super::dial::DialError;
use super::place::Place;
use super::source::hex;
use super::store::{Access, OpenError, Opened};
use super::template::{ChatTemplate, TemplateError};
use super::tokenizer::{ModelTokenizer, TokenizerError, TokenizerFiles};

/// The public hub.
const HUB: &str = "https://huggingface.co";
/// Redirects that the hub may send a file through.
const HOPS: usize = 5;
/// Tries for an answer that may pass: too many requests, or a server's own error.
const TRIES: u32 = 4;
/// Largest tokenizer: the largest known one has 34 MB.
const MAX_TOKENIZER_BYTES: usize = 128 << 20;
/// Largest of the other files.
const MAX_FILE_BYTES: usize = 16 << 20;

/// Why a model's files cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The place cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store says no.
    #[error("{file}: {source}")]
    Store {
        /// The file.
        file: String,
        /// What the store said.
        source: object_store::Error,
    },
    /// The hub answered with an error.
    #[error("{file}: the hub answered {status}")]
    Status {
        /// The file.
        file: String,
        /// The answer.
        status: StatusCode,
    },
    /// The hub did not answer.
    #[error("{file}: the hub did not answer: {source}")]
    Http {
        /// The file.
        file: String,
        /// Why.
        source: reqwest::Error,
    },
    /// The hub sent us somewhere that is not dialled.
    #[error("{file}: {source}")]
    Dial {
        /// The file.
        file: String,
        /// Why.
        source: DialError,
    },
    /// The file is larger than such a file can be.
    #[error("{0} is too large")]
    TooLarge(String),
    /// There is no tokenizer in a form that this program reads.
    #[error("{0} has no tokenizer.json: save the tokenizer in its fast form beside the weights")]
    NoTokenizer(String),
    /// The tokenizer cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The chat template cannot be used.
    #[error(transparent)]
    Template(#[from] TemplateError),
}

/// Where a model's files lie.
#[derive(Debug, Clone)]
pub enum ModelFolder {
    /// In a store or on a volume.
    Store(Opened),
    /// On the hub.
    Hub(HubRepository),
}

/// A repository of the hub at one revision.
#[derive(Debug, Clone)]
pub struct HubRepository {
    http: reqwest::Client,
    policy: super::dial::DialPolicy,
    token: Option<String>,
    base: Url,
    repository: String,
    revision: String,
}

/// A model that rows can be measured with.
#[derive(Debug)]
pub struct Model {
    /// The tokenizer.
    pub tokenizer: ModelTokenizer,
    /// The chat template.
    pub template: ChatTemplate,
    /// Hash of every file that had a part in both.
    pub digest: String,
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ChatTemplate")
    }
}

impl ModelFolder {
    /// The folder of a model. Nothing is asked of it yet.
    pub fn open(access: &Access, place: &Place, revision: Option<&str>) -> Result<Self, ModelError> {
        let Place::Hub { repository, split } = place else { return Ok(Self::Store(access.open(place)?)) };
        let repository = if split.is_empty() { repository.clone() } else { format!("{repository}/{split}") };
        let endpoint = access.variables.get("HF_ENDPOINT").unwrap_or(HUB);
        let base = Url::parse(endpoint).map_err(|_| OpenError::Endpoint(DialError::Host))?;
        access.policy.check(&base).map_err(OpenError::Endpoint)?;
        Ok(Self::Hub(HubRepository {
            http: access.http.clone(),
            policy: access.policy.clone(),
            token: access.variables.get("HF_TOKEN").map(str::to_owned),
            base,
            repository,
            revision: revision.unwrap_or("main").to_owned(),
        }))
    }

    /// The name to show.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Store(opened) => opened.place.to_string(),
            Self::Hub(hub) => format!("hf://{}", hub.repository),
        }
    }

    /// The content of a file; none if there is no such file.
    pub async fn get(&self, name: &str, limit: usize) -> Result<Option<Vec<u8>>, ModelError> {
        let file = || format!("{}/{name}", self.name());
        let opened = match self {
            Self::Hub(hub) => return hub.get(name, limit).await,
            Self::Store(opened) => opened.join(name),
        };
        let found = match opened.store.get(&opened.path).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(source) => return Err(ModelError::Store { file: file(), source }),
        };
        if found.meta.size > limit as u64 {
            return Err(ModelError::TooLarge(file()));
        }
        found.bytes().await.map(|bytes| Some(bytes.to_vec())).map_err(|source| ModelError::Store { file: file(), source })
    }

    /// Whether there is such a file.
    pub async fn has(&self, name: &str) -> Result<bool, ModelError> {
        let opened = match self {
            Self::Hub(hub) => return hub.has(name).await,
            Self::Store(opened) => opened.join(name),
        };
        match opened.store.head(&opened.path).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(source) => Err(ModelError::Store { file: format!("{}/{name}", self.name()), source }),
        }
    }

    /// Loads what rows are measured with. `template` wins over the model's own.
    pub async fn load(&self, template: Option<&str>) -> Result<Model, ModelError> {
        let (tokenizer, config, special_tokens, own_template, model) = futures::try_join!(
            self.get("tokenizer.json", MAX_TOKENIZER_BYTES),
            self.get("tokenizer_config.json", MAX_FILE_BYTES),
            self.get("special_tokens_map.json", MAX_FILE_BYTES),
            self.get("chat_template.jinja", MAX_FILE_BYTES),
            self.get("config.json", MAX_FILE_BYTES),
        )?;
        let tokenizer = tokenizer.ok_or_else(|| ModelError::NoTokenizer(self.name()))?;
        let files = TokenizerFiles { tokenizer, config, special_tokens, template: own_template, model };
        let mut hash = Sha256::new();
        let parts = [Some(&files.tokenizer), files.config.as_ref(), files.special_tokens.as_ref(), files.template.as_ref(), files.model.as_ref()];
        for part in parts.into_iter().map(|part| part.map(Vec::as_slice)).chain([template.map(str::as_bytes)]) {
            // Lengths keep the parts apart.
            hash.update(part.map_or(u64::MAX, |part| part.len() as u64).to_le_bytes());
            hash.update(part.unwrap_or_default());
        }
        let tokenizer = ModelTokenizer::load(&files)?;
        let template = ChatTemplate::new(&tokenizer, template)?;
        Ok(Model { tokenizer, template, digest: hex(&hash.finalize()) })
    }
}

impl HubRepository {
    async fn get(&self, name: &str, limit: usize) -> Result<Option<Vec<u8>>, ModelError> {
        let file = format!("hf://{}/{name}", self.repository);
        let Some(answer) = self.ask(reqwest::Method::GET, name, &file).await? else { return Ok(None) };
        let mut content = Vec::new();
        let mut chunks = answer.bytes_stream();
        while let Some(chunk) = chunks.try_next().await.map_err(|source| ModelError::Http { file: file.clone(), source })? {
            content.extend_from_slice(&chunk);
            if content.len() > limit {
                return Err(ModelError::TooLarge(file));
            }
        }
        Ok(Some(content))
    }

    async fn has(&self, name: &str) -> Result<bool, ModelError> {
        let file = format!("hf://{}/{name}", self.repository);
        Ok(self.ask(reqwest::Method::HEAD, name, &file).await?.is_some())
    }

    /// Asks for one file, through the hub's own redirects; none if there is no such file.
    async fn ask(&self, method: reqwest::Method, name: &str, file: &str) -> Result<Option<reqwest::Response>, ModelError> {
        let fail = |source| ModelError::Http { file: file.to_owned(), source };
        let mut url = self.base.clone();
        url.set_path(&format!("{}/{}/resolve/{}/{name}", self.base.path().trim_end_matches('/'), self.repository, self.revision));
        for _ in 0..HOPS {
            self.policy.check(&url).map_err(|source| ModelError::Dial { file: file.to_owned(), source })?;
            let mut tries = 0;
            let answer = loop {
                let mut request = self.http.request(method.clone(), url.clone());
                if let Some(token) = self.token.as_ref().filter(|_| url.origin() == self.base.origin()) {
                    request = request.header(AUTHORIZATION, format!("Bearer {token}"));
                }
                let answer = request.send().await;
                let passing = answer.as_ref().map_or(true, |answer| passes(answer.status()));
                tries += 1;
                if !passing || tries == TRIES {
                    break answer.map_err(fail)?;
                }
                tokio::time::sleep(Duration::from_millis(250 << tries)).await;
            };
            let status = answer.status();
            if status.is_redirection() {
                let to = answer.headers().get(LOCATION).and_then(|to| to.to_str().ok()).and_then(|to| url.join(to).ok());
                url = to.ok_or_else(|| ModelError::Status { file: file.to_owned(), status })?;
                continue;
            }
            // The hub hides what it does not show behind 401 for a whole repository, and says which file is missing by 404.
            let missing = status == StatusCode::NOT_FOUND && answer.headers().get("x-error-code").is_none_or(|code| code == "EntryNotFound");
            return match status {
                _ if missing => Ok(None),
                status if status.is_success() => Ok(Some(answer)),
                status => Err(ModelError::Status { file: file.to_owned(), status }),
            };
        }
        Err(ModelError::Status { file: file.to_owned(), status: StatusCode::LOOP_DETECTED })
    }
}

/// Whether an answer may be another one a moment later.
#[must_use]
pub fn passes(status: StatusCode) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::tokenizer::tests::word_tokenizer;

    async fn load(files: &[(&str, &str)], template: Option<&str>) -> Result<Model, ModelError> {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        let _ = rustls::crypto::ring::default_provider().install_default();
        let access = Access::new(crate::data::store::Variables::default(), crate::data::dial::DialPolicy::default()).unwrap();
        ModelFolder::open(&access, &Place::File(folder.path().to_owned()), None).unwrap().load(template).await
    }

    #[tokio::test]
    async fn the_digest_follows_every_file_and_the_template() {
        let tokenizer = word_tokenizer().to_string();
        let config = ("tokenizer_config.json", r#"{"eos_token": "</s>"}"#);
        let files = [("tokenizer.json", tokenizer.as_str()), config];
        let first = load(&files, None).await.unwrap().digest;
        assert_eq!(load(&files, None).await.unwrap().digest, first);
        let with_template = load(&files, Some("")).await.unwrap().digest;
        let with_config = load(&[files[0], config, ("config.json", "{}")], None).await.unwrap().digest;
        assert!(first != with_template && first != with_config && with_template != with_config);
    }

    #[tokio::test]
    async fn a_model_without_a_fast_tokenizer_says_what_to_save() {
        let error = load(&[("config.json", "{}")], None).await.unwrap_err();
        assert!(error.to_string().ends_with("has no tokenizer.json: save the tokenizer in its fast form beside the weights"), "{error}");
    }
}
