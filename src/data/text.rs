//! Text files to one stream of tokens in samples of equal length, as LLM Foundry's `convert_text_to_mds` makes them in
//! one process; reads and tokenizes on all cores, writes only to its sink.
//!
//! Each file is cut into pieces of 1,000,000 characters that are tokenized one by one; the token that begins a text is
//! taken off all pieces of a file but the first; what ends a text stands between the files; the tail that fills no
//! sample is left out.

mod pieces;

use std::io::{self, Read};

use serde::{Deserialize, Serialize};

use super::mds::write_tokens;
use super::ordered::{Stopped, ordered};
use super::sink::{Sink, SinkError};
use super::tokenizer::{ModelTokenizer, TokenizerError};
use pieces::{PieceError, Pieces};

/// Why text could not be converted.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// A file cannot be read.
    #[error("read {file}: {source}")]
    Read {
        /// The file.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// A file is not UTF-8.
    #[error("{file} is not UTF-8 (byte {at}): save it as UTF-8")]
    NotUtf8 {
        /// The file.
        file: String,
        /// Where it stops being UTF-8.
        at: u64,
    },
    /// A piece of text cannot be tokenized.
    #[error("{file}: {source}")]
    Tokenizer {
        /// The file.
        file: String,
        /// Why.
        source: TokenizerError,
    },
    /// A sample cannot be stored.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// A thread panicked: a defect of this program or of the tokenizer.
    #[error("a thread panicked while tokenizing text")]
    Panicked,
}

/// How text becomes samples.
pub struct TextReader<'m> {
    /// The model's tokenizer.
    pub tokenizer: &'m ModelTokenizer,
    /// Tokens in a sample.
    pub length: usize,
    /// Tokens before each file.
    pub begin: Vec<u32>,
    /// Tokens behind each file.
    pub end: Vec<u32>,
    /// Whether a sample may go on in the next.
    pub wrap: bool,
    /// Threads to work on.
    pub threads: usize,
}

/// Where the text is read from, and what was found before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TextState {
    /// The file, from 0.
    file: usize,
    /// Pieces of it before.
    piece: u64,
    /// Samples from here on that are stored already.
    stored: u64,
    /// Samples before.
    samples: u64,
    /// Tokens before.
    tokens: u64,
    /// Those of them that fill no sample yet.
    rest: Vec<u32>,
}

/// What was found in the text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TextReport {
    /// Files read.
    pub files: u64,
    /// Samples written.
    pub samples: u64,
    /// Tokens in all files, written or left out at the end.
    pub tokens: u64,
}

enum Piece {
    Text { file: usize, first: bool, text: String },
    End,
}

enum Tokens {
    Piece { first: bool, ids: Vec<u32> },
    End,
}

impl TextReader<'_> {
    /// Reads all files, in this order, from `state` on. `open` gives the bytes of one. Each sample goes to `write`, with what is needed
    /// to go on with this very sample.
    pub fn read<R: Read + Send>(
        &self,
        names: &[String],
        open: impl Fn(usize) -> io::Result<R> + Sync,
        mut state: TextState,
        mut write: impl FnMut(&[u32], &TextState) -> Result<(), SinkError>,
    ) -> Result<TextReport, TextError> {
        let (mut at, mut before) = (state.file, state.piece);
        let mut stored = std::mem::take(&mut state.stored);
        let mut current: Option<Pieces<R>> = None;
        // Samples that the tokens give are written, but for those that were stored before.
        let mut samples = |state: &mut TextState, added: &[u32]| -> Result<(), TextError> {
            let mut buffer = state.rest.clone();
            buffer.extend_from_slice(added);
            let mut start = 0;
            let mut here = TextState { stored: 0, ..state.clone() };
            while buffer.len() - start >= self.length {
                if stored > 0 {
                    stored -= 1;
                } else {
                    write(&buffer[start..start + self.length], &here)?;
                }
                here.stored += 1;
                start = if self.wrap { start + self.length } else { buffer.len() };
            }
            buffer.drain(..start);
            state.samples += here.stored;
            state.tokens += added.len() as u64;
            state.rest = buffer;
            Ok(())
        };
        ordered(
            self.threads,
            || {
                if at >= names.len() {
                    return Ok(None);
                }
                let failed = |error| match error {
                    PieceError::Read(source) => TextError::Read { file: names[at].clone(), source },
                    PieceError::NotUtf8(byte) => TextError::NotUtf8 { file: names[at].clone(), at: byte },
                };
                let pieces = match &mut current {
                    Some(pieces) => pieces,
                    None => current.insert(Pieces::new(open(at).map_err(|error| failed(PieceError::Read(error)))?)),
                };
                for _ in 0..std::mem::take(&mut before) {
                    if pieces.next_piece().map_err(failed)?.is_none() {
                        break;
                    }
                }
                let first = pieces.is_new();
                if let Some(text) = pieces.next_piece().map_err(failed)? {
                    return Ok(Some(Piece::Text { file: at, first, text }));
                }
                at += 1;
                current = None;
                Ok(Some(Piece::End))
            },
            |piece| match piece {
                Piece::End => Ok(Tokens::End),
                Piece::Text { file, first, text } => {
                    let ids = self.tokenizer.encode(&text, true);
                    let mut ids = ids.map_err(|source| TextError::Tokenizer { file: names[file].clone(), source })?;
                    if !first && ids.first().is_some_and(|&id| Some(id) == self.tokenizer.begin()) {
                        ids.remove(0);
                    }
                    Ok(Tokens::Piece { first, ids })
                }
            },
            |piece| {
                match piece {
                    Tokens::Piece { first, ids } => {
                        let begin = if first { self.begin.as_slice() } else { &[] };
                        samples(&mut state, &[begin, &ids].concat())?;
                        state.piece += 1;
                    }
                    Tokens::End => {
                        // Even an empty file has a beginning and an end.
                        let begin = if state.piece == 0 { self.begin.as_slice() } else { &[] };
                        let around = [begin, &self.end].concat();
                        state.tokens += around.len() as u64;
                        state.rest.extend_from_slice(&around);
                        (state.file, state.piece) = (state.file + 1, 0);
                    }
                }
                Ok(())
            },
        )
        .map_err(|stopped| match stopped {
            Stopped::Failed(error) => error,
            Stopped::Panicked => TextError::Panicked,
        })?;
        samples(&mut state, &[])?;
        Ok(TextReport { files: names.len() as u64, samples: state.samples, tokens: state.tokens })
    }

    /// The same, into a sink.
    pub fn store<R: Read + Send>(
        &self,
        names: &[String],
        open: impl Fn(usize) -> io::Result<R> + Sync,
        state: TextState,
        sink: &mut Sink,
    ) -> Result<TextReport, TextError> {
        let mut sample = Vec::new();
        self.read(names, open, state, |tokens, state| {
            sample.clear();
            write_tokens(&mut sample, tokens);
            sink.push(&sample, || serde_json::json!(state).to_string().into_bytes())
        })
    }
}

impl TextState {
    /// What a record says; none if it says nothing of text.
    #[must_use]
    pub fn from_bytes(state: &[u8]) -> Option<Self> {
        serde_json::from_slice(state).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::pieces::PIECE_CHARACTERS;
    use super::*;
    use crate::data::tokenizer::tests::files;
    use serde_json::{Value, json};

    fn convert(
        config: &Value,
        length: usize,
        wrap: bool,
        begin: &[u32],
        end: &[u32],
        texts: &[&[u8]],
    ) -> Result<(Vec<Vec<u32>>, TextReport), TextError> {
        let tokenizer = ModelTokenizer::load(&files(config)).unwrap();
        let reader = TextReader { tokenizer: &tokenizer, length, begin: begin.to_vec(), end: end.to_vec(), wrap, threads: 2 };
        let names: Vec<_> = (0..texts.len()).map(|index| format!("{index}.txt")).collect();
        let mut samples = Vec::new();
        let report = reader.read(
            &names,
            |index| Ok(texts[index]),
            TextState::default(),
            |sample, _| {
                samples.push(sample.to_vec());
                Ok(())
            },
        )?;
        Ok((samples, report))
    }

    fn plain() -> Value {
        json!({"eos_token": "</s>"})
    }

    #[test]
    fn files_are_joined_with_what_ends_a_text_and_the_tail_is_left_out() {
        let (samples, report) = convert(&plain(), 3, true, &[], &[2], &[b"a b", b"c d", b""]).unwrap();
        assert_eq!(samples, [[10, 11, 2], [12, 13, 2]]);
        assert_eq!(report, TextReport { files: 3, samples: 2, tokens: 7 });
    }

    #[test]
    fn every_file_begins_even_an_empty_one() {
        let (samples, report) = convert(&plain(), 2, true, &[1], &[2], &[b"", b"a", b""]).unwrap();
        assert_eq!(samples, [[1, 2], [1, 10], [2, 1]]);
        assert_eq!(report.tokens, 7);
    }

    #[test]
    fn without_wrapping_the_rest_behind_a_sample_is_left_out() {
        let (samples, _) = convert(&plain(), 2, false, &[], &[2], &[b"a b c d", b"c d"]).unwrap();
        assert_eq!(samples, [[10, 11], [2, 12]]);
    }

    #[test]
    fn only_the_first_piece_of_a_file_begins_a_text() {
        let llama = json!({"tokenizer_class": "LlamaTokenizer"});
        let long = "a ".repeat(PIECE_CHARACTERS / 2 + 1);
        let (samples, report) = convert(&llama, 1, true, &[], &[], &[long.as_bytes(), b"b"]).unwrap();
        assert_eq!(report.tokens, 1 + PIECE_CHARACTERS as u64 / 2 + 1 + 2);
        assert_eq!(samples.iter().filter(|sample| sample[0] == 1).count(), 2);
    }

    #[test]
    fn a_file_that_is_not_utf8_is_named_with_the_byte() {
        for (text, at) in [(&b"ab\xffcd"[..], 2), (b"ab\xc3", 2), (b"\xe2\x82", 0)] {
            let error = convert(&plain(), 2, true, &[], &[], &[b"fine", text]).unwrap_err();
            assert_eq!(error.to_string(), format!("1.txt is not UTF-8 (byte {at}): save it as UTF-8"));
        }
    }
}
