//! The base model as far as the data path needs it: its tokenizer and its chat template, from its small files; pure.

use sha2::{Digest as _, Sha256};

use super::source::hex;
use super::template::{ChatTemplate, TemplateError};
use super::tokenizer::{ModelTokenizer, TokenizerError, TokenizerFiles};

/// Largest tokenizer: the largest known one has 34 MB.
const MAX_TOKENIZER_BYTES: usize = 128 << 20;
/// Largest of the other files.
const MAX_FILE_BYTES: usize = 16 << 20;

/// Why rows cannot be measured with a model.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The tokenizer cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The chat template cannot be used.
    #[error(transparent)]
    Template(#[from] TemplateError),
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

impl TokenizerFiles {
    /// Reads every file that there is. `get` gives the content of a file of at most so many bytes, or none.
    /// None if there is no `tokenizer.json`: such a tokenizer is not in a form that this program reads.
    pub async fn gather<B: Into<Vec<u8>>, E>(get: impl AsyncFn(&'static str, usize) -> Result<Option<B>, E>) -> Result<Option<Self>, E> {
        let Some(tokenizer) = get("tokenizer.json", MAX_TOKENIZER_BYTES).await? else { return Ok(None) };
        let other = async |name| get(name, MAX_FILE_BYTES).await.map(|content| content.map(Into::into));
        let (config, special_tokens, template, model) = futures::try_join!(
            other("tokenizer_config.json"),
            other("special_tokens_map.json"),
            other("chat_template.jinja"),
            other("config.json"),
        )?;
        Ok(Some(Self { tokenizer: tokenizer.into(), config, special_tokens, template, model }))
    }
}

impl Model {
    /// The model of these files. `template` wins over the model's own.
    pub fn new(files: &TokenizerFiles, template: Option<&str>) -> Result<Self, ModelError> {
        let mut hash = Sha256::new();
        let parts = [Some(&files.tokenizer), files.config.as_ref(), files.special_tokens.as_ref(), files.template.as_ref(), files.model.as_ref()];
        for part in parts.into_iter().map(|part| part.map(Vec::as_slice)).chain([template.map(str::as_bytes)]) {
            // Lengths keep the parts apart.
            hash.update(part.map_or(u64::MAX, |part| part.len() as u64).to_le_bytes());
            hash.update(part.unwrap_or_default());
        }
        let tokenizer = ModelTokenizer::load(files)?;
        let template = ChatTemplate::new(&tokenizer, template)?;
        Ok(Self { tokenizer, template, digest: hex(&hash.finalize()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::source::Location;
    use crate::data::tokenizer::tests::word_tokenizer;

    async fn load(files: &[(&str, &str)], template: Option<&str>) -> Option<Model> {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        let location = Location::of_file(folder.path()).unwrap();
        let files = TokenizerFiles::gather(async |name, limit| location.read(name, limit).await).await.unwrap()?;
        Some(Model::new(&files, template).unwrap())
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
    async fn without_a_fast_tokenizer_there_is_no_model() {
        assert!(load(&[("config.json", "{}")], None).await.is_none());
    }
}
