//! The model's own tokenizer, loaded from its files so that it gives the very ids that the engine gets; pure.
//!
//! `transformers` does more than read `tokenizer.json`: some tokenizer classes replace its post processor by their
//! `add_bos_token` and `add_eos_token`, special tokens are added from the configuration, and a wrong
//! `add_prefix_space` is corrected. The same is done here.

mod config;

use std::collections::BTreeMap;

use serde_json::Value;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, PreTokenizerWrapper, Tokenizer};

use super::words::Words;
use config::{Config, Template, Token, class_of, read};

/// The files of a model that make up its tokenizer, as they were read.
#[derive(Debug, Clone, Default)]
pub struct TokenizerFiles {
    /// `tokenizer.json`.
    pub tokenizer: Vec<u8>,
    /// `tokenizer_config.json`.
    pub config: Option<Vec<u8>>,
    /// `special_tokens_map.json`, which counts only for models without `added_tokens_decoder`.
    pub special_tokens: Option<Vec<u8>>,
    /// `chat_template.jinja`, which wins over the template in the configuration.
    pub template: Option<Vec<u8>>,
    /// `config.json` of the model, whose `model_type` stands in for a missing tokenizer class.
    pub model: Option<Vec<u8>>,
}

/// Why a tokenizer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// A file is not what its name says.
    #[error("{file} cannot be read: {problem}")]
    File {
        /// Name of the file.
        file: &'static str,
        /// What the reader said.
        problem: String,
    },
    /// The engine refuses such a model too.
    #[error("the tokenizer has no eos_token: name one in tokenizer_config.json")]
    NoEnd,
    /// A special token that the post processor needs is unknown.
    #[error("the token {0:?} is not in the vocabulary")]
    UnknownToken(String),
    /// A text could not be encoded.
    #[error("a text cannot be tokenized: {0}")]
    Encode(String),
}

/// A tokenizer with its special tokens and its chat template.
pub struct ModelTokenizer {
    inner: Tokenizer,
    words: Option<Words>,
    around: [Vec<u32>; 2],
    special: BTreeMap<&'static str, String>,
    additional: Vec<String>,
    begin: Option<u32>,
    end: Option<u32>,
    template: Option<String>,
}

impl std::fmt::Debug for ModelTokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelTokenizer").field("special", &self.special).finish_non_exhaustive()
    }
}

impl ModelTokenizer {
    /// Builds the tokenizer from its files.
    pub fn load(files: &TokenizerFiles) -> Result<Self, TokenizerError> {
        let mut config: Config = read("tokenizer_config.json", files.config.as_deref())?;
        if config.added_tokens_decoder.is_none() {
            let map: Config = read("special_tokens_map.json", files.special_tokens.as_deref())?;
            config.fill_special_tokens(map);
        }
        let fail = |problem: String| TokenizerError::File { file: "tokenizer.json", problem };
        // The reader panics on some files that are wrong.
        let read = std::panic::catch_unwind(|| Tokenizer::from_bytes(&files.tokenizer)).map_err(|_| fail("it is not of a known form".to_owned()))?;
        let mut inner = read.map_err(|error| fail(error.to_string()))?;
        inner.with_padding(None);
        // Only setting a truncation can fail, removing one cannot.
        let _ = inner.with_truncation(None);
        let class = class_of(&config, files.model.as_deref());
        let special = config.special_tokens(&class);
        add_tokens(&mut inner, &config, &special);
        correct_prefix_space(&mut inner, config.add_prefix_space);
        let texts: BTreeMap<_, _> = special.iter().map(|(name, token)| (*name, token.content().to_owned())).collect();
        if let Some(adds_begin) = class.replaces {
            let begin = config.add_bos_token.unwrap_or(adds_begin).then(|| texts.get("bos_token")).flatten();
            let end = config.add_eos_token.unwrap_or(false).then(|| texts.get("eos_token")).flatten();
            replace_post_processor(&mut inner, begin, end)?;
        }
        let template = match (&files.template, config.chat_template) {
            (Some(bytes), _) => Some(String::from_utf8_lossy(bytes).into_owned()),
            (None, Some(Template::One(template))) => Some(template),
            (None, Some(Template::Named(named))) => named.into_iter().find(|named| named.name == "default").map(|named| named.template),
            (None, None) => None,
        };
        let end = texts.get("eos_token").ok_or(TokenizerError::NoEnd)?;
        let end = inner.token_to_id(end);
        let begin = texts.get("bos_token").and_then(|token| inner.token_to_id(token));
        let additional = config.additional_special_tokens.unwrap_or_default().iter().map(|token| token.content().to_owned()).collect();
        let words = Words::of(&inner).filter(|words| PROBES.iter().all(|text| agrees(&inner, words, text)));
        let around = around(&inner)?;
        Ok(Self { inner, words, around, special: texts, additional, begin, end, template })
    }

    /// The ids of a text. `special` adds what the tokenizer puts around a text by itself.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, TokenizerError> {
        let Some(words) = &self.words else { return whole(&self.inner, text, special) };
        let mut ids = words.encode(&self.inner, text).map_err(|error| TokenizerError::Encode(error.to_string()))?;
        if special {
            let [before, behind] = &self.around;
            ids.splice(0..0, before.iter().copied());
            ids.extend_from_slice(behind);
        }
        Ok(ids)
    }

    /// Id of the token that begins a text.
    #[must_use]
    pub fn begin(&self) -> Option<u32> {
        self.begin
    }

    /// Id of the token that ends a text.
    #[must_use]
    pub fn end(&self) -> Option<u32> {
        self.end
    }

    /// Text of the token that ends a text.
    #[must_use]
    pub fn end_text(&self) -> &str {
        self.special.get("eos_token").map_or("", String::as_str)
    }

    /// The special tokens by the names that chat templates know them by.
    #[must_use]
    pub fn special_tokens(&self) -> &BTreeMap<&'static str, String> {
        &self.special
    }

    /// Special tokens without a name of their own.
    #[must_use]
    pub fn additional_special_tokens(&self) -> &[String] {
        &self.additional
    }

    /// The model's own chat template.
    #[must_use]
    pub fn chat_template(&self) -> Option<&str> {
        self.template.as_deref()
    }
}

fn whole(tokenizer: &Tokenizer, text: &str, special: bool) -> Result<Vec<u32>, TokenizerError> {
    let encoding = tokenizer.encode_fast(text, special).map_err(|error| TokenizerError::Encode(error.to_string()))?;
    Ok(encoding.get_ids().to_vec())
}

/// What the tokenizer puts before and behind a text.
fn around(tokenizer: &Tokenizer) -> Result<[Vec<u32>; 2], TokenizerError> {
    let (bare, full) = (whole(tokenizer, PROBES[0], false)?, whole(tokenizer, PROBES[0], true)?);
    let start = (0..=full.len().saturating_sub(bare.len())).find(|&start| full[start..].starts_with(&bare)).unwrap_or(0);
    Ok([full[..start].to_vec(), full.get(start + bare.len()..).unwrap_or_default().to_vec()])
}

/// Texts that a tokenizer must read alike word by word and whole, before it is trusted to.
const PROBES: [&str; 3] = ["probe", " The quick  brown fox's 12345 jumps,\n\n\tover é日本語 dogs. ", "a\nb  c\u{a0} d\r\n e"];

fn agrees(tokenizer: &Tokenizer, words: &Words, text: &str) -> bool {
    let cut = words.encode(tokenizer, text).ok();
    cut.is_some() && cut == whole(tokenizer, text, false).ok()
}

fn add_tokens(tokenizer: &mut Tokenizer, config: &Config, special: &[(&'static str, Token)]) {
    let is_special = |content: &str| special.iter().any(|(_, token)| token.content() == content);
    let mut decoder: Vec<_> = config.added_tokens_decoder.iter().flatten().collect();
    decoder.sort_by_key(|(id, _)| id.parse::<u64>().unwrap_or(u64::MAX));
    let mut added: Vec<AddedToken> = decoder.into_iter().map(|(_, token)| token.added(is_special(token.content()))).collect();
    let additional = config.additional_special_tokens.iter().flatten();
    for token in special.iter().map(|(_, token)| token).chain(additional) {
        let known = tokenizer.get_added_vocabulary().get_vocab().contains_key(token.content());
        if !known && !added.iter().any(|other| other.content == token.content()) {
            added.push(token.added(true));
        }
    }
    tokenizer.add_tokens(&added);
}

fn correct_prefix_space(tokenizer: &mut Tokenizer, wanted: Option<bool>) {
    let Some(Ok(mut state)) = tokenizer.get_pre_tokenizer().map(serde_json::to_value) else { return };
    let wanted = Value::Bool(wanted.unwrap_or(false));
    if state.get("add_prefix_space").is_some_and(|present| *present != wanted) {
        state["add_prefix_space"] = wanted;
        if let Ok(corrected) = serde_json::from_value::<PreTokenizerWrapper>(state) {
            tokenizer.with_pre_tokenizer(Some(corrected));
        }
    }
}

fn replace_post_processor(tokenizer: &mut Tokenizer, begin: Option<&String>, end: Option<&String>) -> Result<(), TokenizerError> {
    let mut special = vec![];
    for token in [begin, end].into_iter().flatten() {
        let id = tokenizer.token_to_id(token).ok_or_else(|| TokenizerError::UnknownToken(token.clone()))?;
        special.push((token.clone(), id));
    }
    let piece = |token: &String| format!("{token}:0");
    let pieces: Vec<_> = [begin.map(piece), Some("$A:0".to_owned()), end.map(piece)].into_iter().flatten().collect();
    let fail = |problem: String| TokenizerError::File { file: "tokenizer_config.json", problem };
    let single: Vec<&str> = pieces.iter().map(String::as_str).collect();
    let processor = TemplateProcessing::builder()
        .try_single(single)
        .map_err(|error| fail(error.clone()))?
        .special_tokens(special)
        .build()
        .map_err(|error| fail(error.to_string()))?;
    tokenizer.with_post_processor(Some(processor));
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    /// A tokenizer of whole words, small enough to read: every lower-case letter is a token too.
    pub(crate) fn word_tokenizer() -> Value {
        let words = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "hello", "world", "user", "assistant", "system", "a", "b", "c", "d"];
        let vocabulary: serde_json::Map<_, _> = words.iter().zip(0..).map(|(word, id)| ((*word).to_owned(), json!(id))).collect();
        let special = |id: u32| json!({"id": id, "content": words[id as usize], "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
        json!({"version": "1.0", "truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}, "padding": null,
            "added_tokens": [special(0), special(1), special(2), special(3), special(4)], "normalizer": null,
            "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
            "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"}})
    }

    pub(crate) fn files(config: &Value) -> TokenizerFiles {
        TokenizerFiles {
            tokenizer: word_tokenizer().to_string().into_bytes(),
            config: Some(config.to_string().into_bytes()),
            ..TokenizerFiles::default()
        }
    }

    fn ids(config: &Value, text: &str) -> Vec<u32> {
        ModelTokenizer::load(&files(config)).unwrap().encode(text, true).unwrap()
    }

    #[test]
    fn a_plain_tokenizer_adds_nothing_and_is_never_cut() {
        let config = json!({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"});
        assert_eq!(ids(&config, "hello world a b c d"), [5, 6, 10, 11, 12, 13]);
    }

    #[test]
    fn a_llama_tokenizer_adds_what_its_configuration_says() {
        for (config, expected) in [
            (json!({"tokenizer_class": "LlamaTokenizerFast"}), &[1, 5][..]),
            (json!({"tokenizer_class": "LlamaTokenizer", "add_eos_token": true}), &[1, 5, 2]),
            (json!({"tokenizer_class": "LlamaTokenizer", "add_bos_token": false}), &[5]),
            (json!({"tokenizer_class": "GPTNeoXTokenizer", "eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>"}), &[5]),
        ] {
            assert_eq!(ids(&config, "hello"), expected, "{config}");
        }
    }

    #[test]
    fn a_missing_class_follows_from_the_model() {
        let files = TokenizerFiles { model: Some(br#"{"model_type": "llama"}"#.to_vec()), ..files(&json!({})) };
        assert_eq!(ModelTokenizer::load(&files).unwrap().encode("hello", true).unwrap(), [1, 5]);
    }

    #[test]
    fn special_tokens_come_from_the_map_when_the_configuration_is_old() {
        let files =
            TokenizerFiles { special_tokens: Some(br#"{"eos_token": {"content": "</s>"}, "bos_token": "<s>"}"#.to_vec()), ..files(&json!({})) };
        let tokenizer = ModelTokenizer::load(&files).unwrap();
        assert_eq!((tokenizer.begin(), tokenizer.end(), tokenizer.end_text()), (Some(1), Some(2), "</s>"));
    }

    #[test]
    fn a_special_token_that_is_new_gets_the_next_id() {
        let config = json!({"eos_token": "<end>", "added_tokens_decoder": {"14": {"content": "<new>", "special": true}}});
        let tokenizer = ModelTokenizer::load(&files(&config)).unwrap();
        assert_eq!(tokenizer.encode("hello<new><end>", false).unwrap(), [5, 14, 15]);
        assert_eq!(tokenizer.end(), Some(15));
    }

    #[test]
    fn the_template_is_the_files_or_the_default_of_several() {
        let named = json!({"eos_token": "</s>", "chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]});
        assert_eq!(ModelTokenizer::load(&files(&named)).unwrap().chat_template(), Some("d"));
        let with_file = TokenizerFiles { template: Some(b"f".to_vec()), ..files(&named) };
        assert_eq!(ModelTokenizer::load(&with_file).unwrap().chat_template(), Some("f"));
    }

    #[test]
    fn a_tokenizer_without_an_end_is_refused_as_the_engine_does() {
        assert!(matches!(ModelTokenizer::load(&files(&json!({}))), Err(TokenizerError::NoEnd)));
    }

    #[test]
    fn a_broken_file_is_named() {
        for (files, name) in [
            (TokenizerFiles { tokenizer: b"{}".to_vec(), ..TokenizerFiles::default() }, "tokenizer.json cannot be read"),
            (
                TokenizerFiles {
                    tokenizer: br#"{"version": "1.0", "added_tokens": [], "decoder": {"type": 1}}"#.to_vec(),
                    ..TokenizerFiles::default()
                },
                "tokenizer.json cannot be read",
            ),
            (TokenizerFiles { config: Some(b"[".to_vec()), ..files(&json!({})) }, "tokenizer_config.json cannot be read"),
        ] {
            assert!(ModelTokenizer::load(&files).unwrap_err().to_string().starts_with(name));
        }
    }
}
