//! A text file in pieces of equal length, with every line end made a line feed, as Python reads text; reads only what it is given.

use std::io::{self, Read};

/// Characters that are tokenized at once: the engine's own number, on which the tokens depend.
pub(super) const PIECE_CHARACTERS: usize = 1_000_000;
const READ_BYTES: usize = 1 << 16;

pub(super) enum PieceError {
    Read(io::Error),
    NotUtf8(u64),
}

/// Pieces of a text file with every line end made a line feed, as Python reads text.
pub(super) struct Pieces<R> {
    reader: R,
    bytes: Vec<u8>,
    text: String,
    characters: usize,
    after_return: bool,
    read: u64,
    new: bool,
    ended: bool,
}

impl<R: Read> Pieces<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, bytes: Vec::new(), text: String::new(), characters: 0, after_return: false, read: 0, new: true, ended: false }
    }

    pub(super) fn is_new(&self) -> bool {
        self.new
    }

    pub(super) fn next_piece(&mut self) -> Result<Option<String>, PieceError> {
        while !self.ended && self.characters < PIECE_CHARACTERS {
            self.fill()?;
        }
        if self.text.is_empty() {
            return Ok(None);
        }
        self.new = false;
        let rest = match self.text.char_indices().nth(PIECE_CHARACTERS) {
            Some((at, _)) => self.text.split_off(at),
            None => String::new(),
        };
        self.characters = rest.chars().count();
        Ok(Some(std::mem::replace(&mut self.text, rest)))
    }

    fn fill(&mut self) -> Result<(), PieceError> {
        let kept = self.bytes.len();
        let read = self.reader.by_ref().take(READ_BYTES as u64).read_to_end(&mut self.bytes).map_err(PieceError::Read)?;
        self.ended = read == 0;
        self.read += read as u64;
        let (text, incomplete) = match std::str::from_utf8(&self.bytes) {
            Ok(text) => (text, 0),
            Err(error) => {
                let bad = PieceError::NotUtf8(self.read - (self.bytes.len() - error.valid_up_to()) as u64);
                if error.error_len().is_some() || (self.ended && kept > 0) {
                    return Err(bad);
                }
                let text = std::str::from_utf8(&self.bytes[..error.valid_up_to()]).unwrap_or_default();
                (text, self.bytes.len() - error.valid_up_to())
            }
        };
        for part in text.split_inclusive(['\r', '\n']) {
            let (line, end) = match part.as_bytes().last() {
                Some(b'\r' | b'\n') => part.split_at(part.len() - 1),
                _ => (part, ""),
            };
            // A line feed right behind a return belongs to it.
            let swallowed = self.after_return && line.is_empty() && end == "\n";
            self.after_return = end == "\r";
            self.text.push_str(line);
            self.characters += line.chars().count();
            if !end.is_empty() && !swallowed {
                self.text.push('\n');
                self.characters += 1;
            }
        }
        let keep_from = self.bytes.len() - incomplete;
        self.bytes.drain(..keep_from);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pieces(bytes: &[u8]) -> Vec<String> {
        let mut pieces = Pieces::new(bytes);
        std::iter::from_fn(|| pieces.next_piece().unwrap_or_else(|_| panic!("not text"))).collect()
    }

    #[test]
    fn pieces_are_cut_by_characters_and_not_by_bytes() {
        let text = "é€😀a".repeat(PIECE_CHARACTERS / 2);
        let counts: Vec<_> = pieces(text.as_bytes()).iter().map(|piece| piece.chars().count()).collect();
        assert_eq!(counts, [PIECE_CHARACTERS, PIECE_CHARACTERS]);
        assert_eq!(pieces(text.as_bytes()).concat(), text);
    }

    proptest! {
        #[test]
        fn line_ends_become_line_feeds_wherever_the_bytes_are_cut(text in "[aé\r\n]{0,40}", padding in READ_BYTES - 20..READ_BYTES) {
            let text = "x".repeat(padding) + &text;
            let expected = text.replace("\r\n", "\n").replace('\r', "\n");
            prop_assert_eq!(pieces(text.as_bytes()).concat(), expected);
        }
    }
}
