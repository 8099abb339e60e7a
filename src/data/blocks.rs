//! Cuts a byte stream into blocks of whole lines, with line numbers, in bounded memory; reads only what it is given.

use std::io::{self, Read};

/// Longest line that can be a row. A longer one is a bad row and is read past without being kept.
pub const MAX_LINE_BYTES: usize = 8 << 20;
/// Size that a block is filled to before it is handed on.
const BLOCK_BYTES: usize = 1 << 20;

/// Some whole lines of one file.
#[derive(Debug, PartialEq, Eq)]
pub struct Block {
    /// Bytes of the file before it, decompressed.
    pub offset: u64,
    /// Line number of the first line, from 1.
    pub first_line: u64,
    /// The lines; each but perhaps the last ends with a line feed.
    pub bytes: Vec<u8>,
    /// True if this is not a run of lines but the front of one line that is too long.
    pub too_long: bool,
}

/// Gives the rows of a file in blocks, from wherever it was told to begin.
pub trait Cut {
    /// The next block; none at the end.
    fn next_block(&mut self) -> io::Result<Option<Block>>;
}

impl<C: Cut + ?Sized> Cut for Box<C> {
    fn next_block(&mut self) -> io::Result<Option<Block>> {
        (**self).next_block()
    }
}

/// Cuts a reader into blocks.
pub struct Blocks<R> {
    reader: R,
    pending: Vec<u8>,
    offset: u64,
    line: u64,
    ended: bool,
}

impl<R: Read> Blocks<R> {
    /// Blocks of everything that `reader` gives: a file from its `offset`, where line `line` begins.
    pub fn new(reader: R, offset: u64, line: u64) -> Self {
        Self { reader, pending: Vec::new(), offset, line, ended: false }
    }

    fn block(&mut self, bytes: Vec<u8>, too_long: bool) -> Block {
        let lines = if too_long { 1 } else { memchr::memchr_iter(b'\n', &bytes).count() as u64 };
        let block = Block { offset: self.offset, first_line: self.line, bytes, too_long };
        // Behind a line that is too long the offset is wrong, but nothing goes on from behind a bad row.
        self.offset += block.bytes.len() as u64;
        self.line += lines;
        block
    }

    fn fill(&mut self, wanted: usize) -> io::Result<()> {
        let missing = wanted.saturating_sub(self.pending.len()) as u64;
        let read = self.reader.by_ref().take(missing).read_to_end(&mut self.pending)?;
        self.ended = (read as u64) < missing;
        Ok(())
    }

    fn skip_line(&mut self) -> io::Result<()> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.pending) {
                self.pending.drain(..=end);
                return Ok(());
            }
            self.pending.clear();
            self.fill(BLOCK_BYTES)?;
            if self.ended && self.pending.is_empty() {
                return Ok(());
            }
        }
    }
}

impl<R: Read> Cut for Blocks<R> {
    fn next_block(&mut self) -> io::Result<Option<Block>> {
        loop {
            if !self.ended && self.pending.len() < BLOCK_BYTES {
                self.fill(BLOCK_BYTES)?;
            }
            if self.pending.is_empty() {
                return Ok(None);
            }
            if self.ended {
                let bytes = std::mem::take(&mut self.pending);
                return Ok(Some(self.block(bytes, false)));
            }
            if let Some(end) = memchr::memrchr(b'\n', &self.pending) {
                let rest = self.pending.split_off(end + 1);
                let bytes = std::mem::replace(&mut self.pending, rest);
                return Ok(Some(self.block(bytes, false)));
            }
            if self.pending.len() > MAX_LINE_BYTES {
                let front = self.pending[..64].to_vec();
                self.skip_line()?;
                return Ok(Some(self.block(front, true)));
            }
            let wanted = (self.pending.len() * 2).min(MAX_LINE_BYTES + 1);
            self.fill(wanted)?;
        }
    }
}

/// The lines of a block with their numbers: without line ends, a byte order mark at the very front, and blank lines.
pub fn lines(block: &Block) -> impl Iterator<Item = (u64, &[u8])> {
    let mut rest = block.bytes.as_slice();
    if block.first_line == 1 {
        rest = rest.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(rest);
    }
    let mut number = block.first_line;
    std::iter::from_fn(move || {
        while !rest.is_empty() {
            let end = memchr::memchr(b'\n', rest);
            let line = &rest[..end.unwrap_or(rest.len())];
            rest = &rest[end.map_or(rest.len(), |end| end + 1)..];
            number += 1;
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if !line.iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\r')) {
                return Some((number - 1, line));
            }
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
        let mut blocks = Blocks::new(bytes, 0, 1);
        let mut all = Vec::new();
        while let Some(block) = blocks.next_block().unwrap() {
            assert!(!block.too_long);
            all.extend(lines(&block).map(|(number, line)| (number, line.to_vec())));
        }
        all
    }

    #[test]
    fn lines_keep_their_numbers_over_blank_lines_and_any_line_end() {
        let expected = vec![(1, b"a".to_vec()), (3, b"b".to_vec()), (5, b"c".to_vec())];
        assert_eq!(read(b"\xEF\xBB\xBFa\r\n \t\nb\n\nc"), expected);
        assert_eq!(read(b"a\n\r\nb\n\nc\n"), expected);
        assert!(read(b"").is_empty());
        assert!(read(b"\n\n").is_empty());
    }

    #[test]
    fn lines_longer_than_a_block_stay_whole() {
        let long = vec![b'x'; 3 * BLOCK_BYTES];
        let mut text = long.clone();
        text.extend_from_slice(b"\nshort\n");
        assert_eq!(read(&text), [(1, long), (2, b"short".to_vec())]);
    }

    #[test]
    fn a_line_beyond_the_bound_is_reported_once_and_read_past() {
        let reader = Read::chain(io::repeat(b'x').take(200 << 20), &b"\nnext\n"[..]);
        let mut blocks = Blocks::new(Read::chain(&b"first\n"[..], reader), 0, 1);
        let first = blocks.next_block().unwrap().unwrap();
        assert_eq!((first.first_line, first.bytes.as_slice(), first.too_long), (1, &b"first\n"[..], false));
        let long = blocks.next_block().unwrap().unwrap();
        assert_eq!((long.first_line, long.bytes.len(), long.too_long), (2, 64, true));
        let next = blocks.next_block().unwrap().unwrap();
        assert_eq!((next.first_line, next.bytes.as_slice(), next.too_long), (3, &b"next\n"[..], false));
        assert!(blocks.next_block().unwrap().is_none());
    }

    #[test]
    fn a_line_beyond_the_bound_at_the_end_ends_the_stream() {
        let mut blocks = Blocks::new(io::repeat(b'x').take(MAX_LINE_BYTES as u64 + 2), 0, 1);
        assert!(blocks.next_block().unwrap().unwrap().too_long);
        assert!(blocks.next_block().unwrap().is_none());
    }

    proptest! {
        #[test]
        fn nothing_is_lost(text in "[ab\r\n]{0,200}") {
            let expected: Vec<_> = text.split('\n').zip(1..).map(|(line, number)| (number, line.strip_suffix('\r').unwrap_or(line)))
                .filter(|(_, line)| !line.chars().all(|c| c == '\r'))
                .map(|(number, line)| (number, line.as_bytes().to_vec())).collect();
            prop_assert_eq!(read(text.as_bytes()), expected);
        }
    }
}
