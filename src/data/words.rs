//! Tokenizes text word by word with a memory of words, where that gives the very same ids as tokenizing it whole; pure.
//!
//! A tokenizer does far more work on a word than to look it up, and most words of a text were seen before. A text may be
//! cut before a space if no token of the vocabulary, and no match of the pattern that splits text, reaches over that
//! place. That is so for two families, which are recognized by their configuration; any other tokenizer gets the
//! text whole:
//!
//! - byte level BPE with one of the known patterns: each of them ends a match between a letter, digit or mark and a
//!   space, where a run of letters or of digits ends, and before a digit behind a mark; it looks back nowhere, and looks
//!   ahead only behind white space. Added tokens are looked for, so that none is cut;
//! - BPE over text whose spaces became `▁`, if in no token a `▁` follows anything else, so that no merge crosses.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;
use tokenizers::{AddedToken, ModelWrapper, NormalizerWrapper, Tokenizer};

/// Longest piece that is remembered: longer ones hardly come again.
const MAX_PIECE_BYTES: usize = 48;
/// Most pieces that a thread remembers before it forgets them all.
const MAX_PIECES: usize = 1 << 17;
/// Most added tokens that a text is searched for, where their place matters.
const MAX_SEARCHED_TOKENS: usize = 16;

/// The patterns that are known to end a match before a space: those of Llama 3, Qwen 2 and GPT-4.
const PATTERNS: [&str; 4] = [
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
];

/// How one tokenizer's texts may be cut.
pub(crate) struct Words {
    /// Tells the memories of several tokenizers apart.
    id: u64,
    /// For every piece but the first, if the tokenizer puts something before a text.
    later: Option<Tokenizer>,
    /// A text with one of these is not cut.
    whole: Vec<String>,
    /// For byte level BPE, whose texts may be cut in more places.
    fine: Option<Fine>,
}

/// Added tokens, which are never cut.
struct Fine {
    tokens: Vec<String>,
    starts: [bool; 256],
}

impl Words {
    /// How the texts of this tokenizer may be cut; none if they may not be.
    pub(crate) fn of(tokenizer: &Tokenizer) -> Option<Self> {
        static IDS: AtomicU64 = AtomicU64::new(1);
        let ModelWrapper::BPE(model) = tokenizer.get_model() else { return None };
        let added: Vec<AddedToken> = tokenizer.get_added_tokens_decoder().into_values().collect();
        let plain = |token: &AddedToken| !token.lstrip && !token.rstrip && !token.single_word && !token.content.contains([' ', '\n']);
        if model.dropout.is_some() || model.end_of_word_suffix.is_some() || !added.iter().all(plain) {
            return None;
        }
        let state = |part: Option<serde_json::Result<Value>>| part.and_then(Result::ok).unwrap_or(Value::Null);
        let normalizer = state(tokenizer.get_normalizer().map(serde_json::to_value));
        let splitter = state(tokenizer.get_pre_tokenizer().map(serde_json::to_value));
        let id = IDS.fetch_add(1, Ordering::Relaxed);
        if is_byte_level(&splitter) && (normalizer.is_null() || normalizer["type"] == "NFC") {
            // A token that is looked for in the normalized text may stand in the text in another form.
            let seen = normalizer.is_null() || added.iter().all(|token| !token.normalized);
            return seen.then(|| Self { id, later: None, whole: Vec::new(), fine: Some(Fine::new(added)) });
        }
        let (prepends, replaces) = match normalizer["normalizers"].as_array().map(Vec::as_slice) {
            Some([first, second]) if first["type"] == "Prepend" => (true, second),
            _ => (false, &normalizer),
        };
        let of_spaces = replaces["type"] == "Replace" && replaces["pattern"]["String"] == " " && replaces["content"] == "▁";
        let splits_nothing = splitter.is_null() || (splitter["type"] == "Split" && splitter["pattern"]["String"] == " ");
        if !of_spaces || !splits_nothing || !model.byte_fallback || crosses(tokenizer) {
            return None;
        }
        if !prepends {
            return Some(Self { id, later: None, whole: Vec::new(), fine: None });
        }
        // The text behind an added token begins anew, with what is put before a text.
        let whole: Vec<_> = added.into_iter().map(|token| token.content).collect();
        let mut later = tokenizer.clone();
        later.with_normalizer(Some(serde_json::from_value::<NormalizerWrapper>(replaces.clone()).ok()?));
        (whole.len() <= MAX_SEARCHED_TOKENS).then_some(Self { id, later: Some(later), whole, fine: None })
    }

    /// The ids of a text, without what a tokenizer puts around it.
    pub(crate) fn encode(&self, tokenizer: &Tokenizer, text: &str) -> tokenizers::Result<Vec<u32>> {
        if self.whole.iter().any(|token| text.contains(token.as_str())) {
            return ids(tokenizer, text);
        }
        MEMORY.with_borrow_mut(|memory| {
            if memory.owner != self.id || memory.places.len() > MAX_PIECES {
                memory.forget(self.id);
            }
            let mut out = Vec::with_capacity(text.len() / 4);
            let mut rest = text;
            let mut first = self.later.is_some();
            while !rest.is_empty() {
                let (piece, behind) = rest.split_at(self.piece(rest));
                rest = behind;
                if std::mem::take(&mut first) {
                    out.extend(ids(tokenizer, piece)?);
                } else if let Some(known) = memory.recall(piece) {
                    out.extend_from_slice(known);
                } else {
                    let new = ids(self.later.as_ref().unwrap_or(tokenizer), piece)?;
                    out.extend_from_slice(&new);
                    memory.learn(piece, &new);
                }
            }
            Ok(out)
        })
    }

    /// How long the first piece of a text is: up to the next place where it may be cut.
    fn piece(&self, text: &str) -> usize {
        if let Some(fine) = &self.fine {
            return fine.piece(text);
        }
        let bytes = text.as_bytes();
        let ends = memchr::memchr_iter(b' ', bytes).find(|&at| at > 0 && ends_word(text, at));
        ends.unwrap_or(bytes.len())
    }
}

/// Whether a letter, digit or mark stands before this place.
fn ends_word(text: &str, at: usize) -> bool {
    let before = text.as_bytes()[at - 1];
    before.is_ascii_graphic() || (before >= 0x80 && text[..at].chars().next_back().is_some_and(char::is_alphanumeric))
}

impl Fine {
    fn new(added: Vec<AddedToken>) -> Self {
        let tokens: Vec<_> = added.into_iter().map(|token| token.content).filter(|token| !token.is_empty()).collect();
        let mut starts = [false; 256];
        for token in &tokens {
            starts[usize::from(token.as_bytes()[0])] = true;
        }
        Self { tokens, starts }
    }

    fn piece(&self, text: &str) -> usize {
        let bytes = text.as_bytes();
        let mut held = 0;
        for (at, &byte) in bytes.iter().enumerate() {
            if at > 0 && at >= held && byte.is_ascii() {
                let before = bytes[at - 1];
                let cut = match byte {
                    b' ' => ends_word(text, at),
                    _ if before.is_ascii_alphabetic() => !byte.is_ascii_alphabetic(),
                    _ if before.is_ascii_digit() => !byte.is_ascii_digit(),
                    _ => before.is_ascii_punctuation() && byte.is_ascii_digit(),
                };
                if cut {
                    return at;
                }
            }
            if self.starts[usize::from(byte)] {
                let starting = self.tokens.iter().filter(|token| bytes[at..].starts_with(token.as_bytes()));
                held = starting.map(|token| at + token.len()).max().unwrap_or(0).max(held);
            }
        }
        bytes.len()
    }
}

fn ids(tokenizer: &Tokenizer, text: &str) -> tokenizers::Result<Vec<u32>> {
    Ok(tokenizer.encode_fast(text, false)?.get_ids().to_vec())
}

fn is_byte_level(splitter: &Value) -> bool {
    let byte_level = |part: &Value, regex: bool| {
        part["type"] == "ByteLevel" && part["add_prefix_space"] == false && part["use_regex"].as_bool().unwrap_or(true) == regex
    };
    if byte_level(splitter, true) {
        return true;
    }
    let Some([split, bytes]) = splitter["pretokenizers"].as_array().map(Vec::as_slice) else { return false };
    let pattern = split["pattern"]["Regex"].as_str();
    let isolates = split["type"] == "Split" && split["behavior"] == "Isolated" && split["invert"] == false;
    isolates && pattern.is_some_and(|pattern| PATTERNS.contains(&pattern)) && byte_level(bytes, false)
}

/// Whether any token has a `▁` behind something else.
fn crosses(tokenizer: &Tokenizer) -> bool {
    tokenizer.get_vocab(false).keys().any(|token| token.trim_start_matches('▁').contains('▁'))
}

thread_local! {
    static MEMORY: RefCell<Memory> = RefCell::default();
}

/// What a thread remembers of one tokenizer.
#[derive(Default)]
struct Memory {
    owner: u64,
    places: HashMap<Box<str>, (u32, u32), BuildHasherDefault<Fold>>,
    ids: Vec<u32>,
}

impl Memory {
    fn forget(&mut self, owner: u64) {
        self.owner = owner;
        self.places.clear();
        self.ids.clear();
    }

    fn recall(&self, piece: &str) -> Option<&[u32]> {
        let &(start, end) = self.places.get(piece)?;
        self.ids.get(start as usize..end as usize)
    }

    fn learn(&mut self, piece: &str, ids: &[u32]) {
        let start = u32::try_from(self.ids.len());
        let end = u32::try_from(self.ids.len() + ids.len());
        if let (Ok(start), Ok(end), true) = (start, end, piece.len() <= MAX_PIECE_BYTES) {
            self.ids.extend_from_slice(ids);
            self.places.insert(piece.into(), (start, end));
        }
    }
}

/// A hash for short texts: eight bytes at a time, folded by a multiplication. The number of pieces is bounded, so words
/// that are made to collide cost their own run time only.
#[derive(Default)]
struct Fold(u64);

impl Hasher for Fold {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            let mixed = u128::from(self.0 ^ u64::from_le_bytes(word)) * 0x9e37_79b9_7f4a_7c15;
            #[allow(clippy::cast_possible_truncation)] // folding both halves together is the point
            let folded = (mixed >> 64) as u64 ^ mixed as u64;
            self.0 = folded.wrapping_add(chunk.len() as u64);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    /// Byte level BPE with some merges, over spaces, marks and line feeds too.
    fn byte_level(splitter: &Value, normalizer: &Value) -> Tokenizer {
        let visible = |byte: u8| match byte {
            b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => char::from(byte),
            0..=0x20 => char::from_u32(256 + u32::from(byte)).unwrap(),
            0x7F..=0xA0 => char::from_u32(256 + 33 + u32::from(byte) - 0x7F).unwrap(),
            0xAD => '\u{143}',
        };
        let mut vocabulary: Vec<String> = (0..=255u8).map(|byte| visible(byte).to_string()).collect();
        let merges = [
            ("t", "h"),
            ("th", "e"),
            ("Ġ", "the"),
            ("Ġ", "a"),
            ("Ġ", "Ġ"),
            ("Ċ", "Ċ"),
            ("1", "2"),
            (".", "Ċ"),
            ("a", "b"),
            ("'", "s"),
            ("Ã", "©"),
            ("ĠĠ", "ĠĠ"),
        ];
        vocabulary.extend(merges.iter().map(|(a, b)| format!("{a}{b}")));
        let ids: serde_json::Map<_, _> = vocabulary.into_iter().zip(0..).map(|(token, id)| (token, json!(id))).collect();
        let merges: Vec<_> = merges.iter().map(|(a, b)| json!([a, b])).collect();
        let added =
            json!([{"id": 300, "content": "<|end|>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}]);
        let json = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": normalizer,
            "pre_tokenizer": splitter, "post_processor": null, "decoder": null,
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
                "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": ids, "merges": merges}});
        Tokenizer::from_bytes(json.to_string()).unwrap()
    }

    fn split(pattern: &str) -> Value {
        json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]})
    }

    /// BPE as converted from `SentencePiece`, with or without something before a text.
    fn pieces(prepends: bool, extra: &[&str]) -> Tokenizer {
        let bytes = (0..=255).map(|byte| format!("<0x{byte:02X}>"));
        let words = ["<unk>", "▁", "t", "h", "e", "a", "b", ".", "th", "the", "▁the", "▁a", "▁▁", "▁▁▁▁", "ab", "1"].map(str::to_owned);
        let tokens = words.into_iter().chain(extra.iter().map(|token| (*token).to_owned())).chain(bytes);
        let ids: serde_json::Map<_, _> = tokens.zip(0..).map(|(token, id)| (token, json!(id))).collect();
        let merges = json!([["t", "h"], ["th", "e"], ["▁", "the"], ["▁", "a"], ["▁", "▁"], ["▁▁", "▁▁"], ["a", "b"]]);
        let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
        let normalizer =
            if prepends { json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace]}) } else { replace };
        let added =
            json!([{"id": 900, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}]);
        let json = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": normalizer,
            "pre_tokenizer": null, "post_processor": null, "decoder": null,
            "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null, "end_of_word_suffix": null,
                "fuse_unk": true, "byte_fallback": true, "ignore_merges": false, "vocab": ids, "merges": merges}});
        Tokenizer::from_bytes(json.to_string()).unwrap()
    }

    fn cutting() -> Vec<Tokenizer> {
        let own = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
        let mut all: Vec<_> = PATTERNS.iter().map(|pattern| byte_level(&split(pattern), &json!({"type": "NFC"}))).collect();
        all.extend([byte_level(&own, &Value::Null), pieces(true, &[]), pieces(false, &[])]);
        all
    }

    #[test]
    fn tokenizers_whose_texts_may_not_be_cut_are_left_alone() {
        let prefixed = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
        let unknown = split(r"\w+\s*");
        for tokenizer in [
            byte_level(&prefixed, &Value::Null),
            byte_level(&unknown, &Value::Null),
            byte_level(&split(PATTERNS[0]), &json!({"type": "Lowercase"})),
            pieces(true, &["e▁"]),
        ] {
            assert!(Words::of(&tokenizer).is_none());
        }
        let mut with_space = byte_level(&split(PATTERNS[0]), &Value::Null);
        with_space.add_tokens(&[AddedToken::from("<a b>", true)]);
        assert!(Words::of(&with_space).is_none());
    }

    #[test]
    fn memories_of_two_tokenizers_are_not_mixed() {
        let (one, two) = (byte_level(&split(PATTERNS[0]), &Value::Null), pieces(false, &[]));
        let (words_of_one, words_of_two) = (Words::of(&one).unwrap(), Words::of(&two).unwrap());
        for _ in 0..2 {
            assert_eq!(words_of_one.encode(&one, "the the a").unwrap(), ids(&one, "the the a").unwrap());
            assert_eq!(words_of_two.encode(&two, "the the a").unwrap(), ids(&two, "the the a").unwrap());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn cut_texts_have_the_ids_of_whole_texts(
            text in "([ \n\t\r.,'!1280aABbsthe<>|/é\u{301}\u{a0}\u{85}\u{2028}▁日ſ]|the| the|  |\n\n|<\\|end\\|>|</s>|'s|'S){0,60}|\\PC{0,40}"
        ) {
            thread_local! {
                static ALL: Vec<(Tokenizer, Words)> = cutting().into_iter().map(|tokenizer| { let words = Words::of(&tokenizer).expect("it may be cut"); (tokenizer, words) }).collect();
            }
            ALL.with(|all| for (index, (tokenizer, words)) in all.iter().enumerate() {
                let (cut, whole) = (words.encode(tokenizer, &text).unwrap(), ids(tokenizer, &text).unwrap());
                assert_eq!(cut, whole, "tokenizer {index}: {text:?}");
            });
        }
    }
}
