//! What a model's configuration files say of its tokenizer, and what its class does by itself; pure.

use std::collections::BTreeMap;

use serde::Deserialize;
use tokenizers::AddedToken;

use super::TokenizerError;

const SPECIAL: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Config {
    pub(super) tokenizer_class: Option<String>,
    pub(super) bos_token: Option<Token>,
    pub(super) eos_token: Option<Token>,
    pub(super) unk_token: Option<Token>,
    pub(super) sep_token: Option<Token>,
    pub(super) pad_token: Option<Token>,
    pub(super) cls_token: Option<Token>,
    pub(super) mask_token: Option<Token>,
    pub(super) additional_special_tokens: Option<Vec<Token>>,
    pub(super) added_tokens_decoder: Option<BTreeMap<String, Token>>,
    pub(super) add_bos_token: Option<bool>,
    pub(super) add_eos_token: Option<bool>,
    pub(super) add_prefix_space: Option<bool>,
    pub(super) chat_template: Option<Template>,
}

/// A special token: its text, or its text with flags.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum Token {
    Text(String),
    Flags {
        content: String,
        #[serde(default)]
        single_word: bool,
        #[serde(default)]
        lstrip: bool,
        #[serde(default)]
        rstrip: bool,
        normalized: Option<bool>,
        special: Option<bool>,
    },
}

impl Token {
    pub(super) fn content(&self) -> &str {
        match self {
            Self::Text(content) | Self::Flags { content, .. } => content,
        }
    }

    pub(super) fn added(&self, special: bool) -> AddedToken {
        match self.clone() {
            Self::Text(content) => AddedToken::from(content, special),
            Self::Flags { content, single_word, lstrip, rstrip, normalized, special: own } => {
                let special = own.unwrap_or(special);
                AddedToken { content, single_word, lstrip, rstrip, normalized: normalized.unwrap_or(!special), special }
            }
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Template {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Debug, Deserialize)]
pub(super) struct NamedTemplate {
    pub(super) name: String,
    pub(super) template: String,
}

/// What a tokenizer class does by itself.
pub(super) struct Class {
    /// Default beginning, end and unknown tokens.
    pub(super) tokens: [Option<&'static str>; 3],
    /// Whether it replaces the post processor, and then whether it adds a beginning by default.
    pub(super) replaces: Option<bool>,
}

pub(super) fn class_of(config: &Config, model: Option<&[u8]>) -> Class {
    #[derive(Deserialize)]
    struct Model {
        model_type: Option<String>,
    }
    let model_type = model.and_then(|bytes| serde_json::from_slice::<Model>(bytes).ok()).and_then(|model| model.model_type);
    let class = config.tokenizer_class.as_deref().map_or_else(
        || match model_type.as_deref() {
            Some("llama" | "mistral" | "mixtral") => "LlamaTokenizer",
            Some("gemma" | "gemma2" | "gemma3" | "gemma3_text") => "GemmaTokenizer",
            Some("gpt_neox" | "mpt") => "GPTNeoXTokenizer",
            Some("cohere" | "cohere2") => "CohereTokenizer",
            Some("qwen2" | "qwen2_moe" | "qwen3") => "Qwen2Tokenizer",
            Some("gpt2") => "GPT2Tokenizer",
            _ => "",
        },
        |class| class.trim_end_matches("Fast"),
    );
    match class {
        "LlamaTokenizer" | "CodeLlamaTokenizer" => Class { tokens: [Some("<s>"), Some("</s>"), Some("<unk>")], replaces: Some(true) },
        "GemmaTokenizer" => Class { tokens: [Some("<bos>"), Some("<eos>"), Some("<unk>")], replaces: Some(true) },
        "CohereTokenizer" => Class { tokens: [Some("<BOS_TOKEN>"), Some("<|END_OF_TURN_TOKEN|>"), Some("<UNK>")], replaces: Some(true) },
        "GPTNeoXTokenizer" => Class { tokens: [Some("<|endoftext|>"); 3], replaces: Some(false) },
        "GPT2Tokenizer" => Class { tokens: [Some("<|endoftext|>"); 3], replaces: None },
        "Qwen2Tokenizer" => Class { tokens: [None, Some("<|endoftext|>"), Some("<|endoftext|>")], replaces: None },
        _ => Class { tokens: [None; 3], replaces: None },
    }
}

impl Config {
    fn named(&self) -> [(&'static str, Option<&Token>); 7] {
        let tokens = [&self.bos_token, &self.eos_token, &self.unk_token, &self.sep_token, &self.pad_token, &self.cls_token, &self.mask_token];
        std::array::from_fn(|index| (SPECIAL[index], tokens[index].as_ref()))
    }

    pub(super) fn fill_special_tokens(&mut self, map: Self) {
        for (own, other) in [
            (&mut self.bos_token, map.bos_token),
            (&mut self.eos_token, map.eos_token),
            (&mut self.unk_token, map.unk_token),
            (&mut self.sep_token, map.sep_token),
            (&mut self.pad_token, map.pad_token),
            (&mut self.cls_token, map.cls_token),
            (&mut self.mask_token, map.mask_token),
        ] {
            if own.is_none() {
                *own = other;
            }
        }
        if self.additional_special_tokens.is_none() {
            self.additional_special_tokens = map.additional_special_tokens;
        }
    }

    pub(super) fn special_tokens(&self, class: &Class) -> Vec<(&'static str, Token)> {
        let own = self.named().into_iter().filter_map(|(name, token)| Some((name, token?.clone())));
        let mut special: Vec<_> = own.collect();
        for (name, default) in SPECIAL.into_iter().zip(class.tokens) {
            if let (Some(default), false) = (default, special.iter().any(|(own, _)| *own == name)) {
                special.push((name, Token::Text(default.to_owned())));
            }
        }
        special
    }
}

pub(super) fn read<T: Default + serde::de::DeserializeOwned>(file: &'static str, bytes: Option<&[u8]>) -> Result<T, TokenizerError> {
    bytes.map_or_else(
        || Ok(T::default()),
        |bytes| serde_json::from_slice(bytes).map_err(|error| TokenizerError::File { file, problem: error.to_string() }),
    )
}
