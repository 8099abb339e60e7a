//! MDS shards as `mosaicml-streaming` 0.12 reads them: samples in, shards and their index out; pure and byte-deterministic.
//!
//! A shard is `[count: u32] [count + 1 offsets: u32] [config: JSON] [samples]`, all little endian, and a sample is
//! `[size of each column: u32] [columns]` with the columns sorted by name. The index names the shards in order.

use std::io::Write as _;

use serde::{Deserialize, Serialize};
use serde_json::json;

/// A shard is closed before it grows beyond this many bytes (uncompressed).
pub const SHARD_BYTES: usize = 1 << 26;
/// Part of every cache key: raise it when the same input would give other bytes.
pub const WRITER_VERSION: u32 = 1;
/// The compression level is part of what makes the output deterministic.
const ZSTD_LEVEL: i32 = 3;
/// Name of the index, which is written last: a folder with it is complete.
pub const INDEX: &str = "index.json";

/// The columns of one kind of data, sorted by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `messages` as JSON.
    Chat,
    /// `prompt` and `response` as text.
    Pair,
    /// `tokens` as a list of 32-bit integers.
    Tokens,
}

impl Layout {
    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Chat => &["messages"],
            Self::Pair => &["prompt", "response"],
            Self::Tokens => &["tokens"],
        }
    }

    fn encodings(self) -> &'static [&'static str] {
        match self {
            Self::Chat => &["json"],
            Self::Pair => &["str", "str"],
            Self::Tokens => &["ndarray:int32"],
        }
    }
}

/// One sample of text columns, appended to `out`.
///
/// # Panics
/// If a column has 4 GiB or more; rows are bounded far below.
pub fn write_sample(out: &mut Vec<u8>, columns: &[&[u8]]) {
    for column in columns {
        out.extend_from_slice(&u32::try_from(column.len()).expect("a column is smaller than 4 GiB").to_le_bytes());
    }
    for column in columns {
        out.extend_from_slice(column);
    }
}

/// One sample of tokens, appended to `out`: a one-dimensional array whose length is written in as few bytes as it needs.
///
/// # Panics
/// If there are 2^28 tokens or more, or one is no 31-bit number; contexts and vocabularies are far smaller.
pub fn write_tokens(out: &mut Vec<u8>, tokens: &[u32]) {
    const ONE_DIMENSION: u8 = 1 << 2;
    let length = u32::try_from(tokens.len()).expect("a sample has fewer than 2^28 tokens").to_le_bytes();
    let (width_code, width) = match tokens.len() {
        0..=0xFF => (0, 1),
        0x100..=0xFFFF => (1, 2),
        _ => (2, 4),
    };
    let size = u32::try_from(1 + width + 4 * tokens.len()).expect("a sample has fewer than 2^28 tokens");
    out.extend_from_slice(&size.to_le_bytes());
    out.push(ONE_DIMENSION | width_code);
    out.extend_from_slice(&length[..width]);
    out.extend(tokens.iter().flat_map(|&token| i32::try_from(token).expect("a token is a 31-bit number").to_le_bytes()));
}

/// Puts samples into shards.
pub struct ShardWriter {
    limit: usize,
    config: String,
    shards: usize,
    sizes: Vec<u32>,
    samples: Vec<u8>,
}

/// One full shard, still uncompressed.
#[derive(Debug, PartialEq, Eq)]
pub struct Shard {
    /// Place in the index, from 0.
    pub number: usize,
    /// Samples in it.
    pub samples: usize,
    head: Vec<u8>,
    body: Vec<u8>,
}

/// What the index must know of a stored shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Stored {
    /// Samples in it.
    pub samples: u64,
    /// Size of the file.
    pub bytes: u64,
    /// Size before compression.
    pub raw_bytes: u64,
}

/// The file of the shard with this number.
#[must_use]
pub fn shard_name(number: usize) -> String {
    format!("shard.{number:05}.mds.zstd")
}

#[derive(Serialize)]
struct FileInfo {
    basename: String,
    bytes: u64,
    hashes: serde_json::Map<String, serde_json::Value>,
}

/// What the index says about one shard; the fields are in alphabetical order, as the format's own writer has them.
#[derive(Serialize)]
struct ShardInfo {
    column_encodings: &'static [&'static str],
    column_names: &'static [&'static str],
    column_sizes: Vec<Option<usize>>,
    compression: &'static str,
    format: &'static str,
    hashes: [&'static str; 0],
    raw_data: FileInfo,
    samples: u64,
    size_limit: usize,
    version: u32,
    zip_data: FileInfo,
}

impl ShardWriter {
    /// A writer of samples of one layout into shards of at most `limit` bytes, behind `shards` that are there already.
    #[must_use]
    pub fn new(layout: Layout, limit: usize, shards: usize) -> Self {
        let sizes: Vec<Option<usize>> = layout.names().iter().map(|_| None).collect();
        let config = json!({"column_encodings": layout.encodings(), "column_names": layout.names(), "column_sizes": sizes,
            "compression": "zstd", "format": "mds", "hashes": [], "size_limit": limit, "version": 2});
        Self { limit, config: config.to_string(), shards, sizes: Vec::new(), samples: Vec::new() }
    }

    /// Adds one encoded sample; gives back the shard that was closed because the sample did not fit into it.
    ///
    /// # Panics
    /// If a sample has 4 GiB or more; rows are bounded far below.
    pub fn push(&mut self, sample: &[u8]) -> Option<Shard> {
        let size = 4 + 4 + self.config.len() + self.samples.len() + 4 * self.sizes.len();
        let closed = if size + sample.len() + 4 > self.limit { self.close() } else { None };
        self.sizes.push(u32::try_from(sample.len()).expect("a sample is smaller than 4 GiB"));
        self.samples.extend_from_slice(sample);
        closed
    }

    /// Closes the current shard; none if it has no samples.
    ///
    /// # Panics
    /// Never: a shard is bounded by its size limit, or is one bounded sample.
    pub fn close(&mut self) -> Option<Shard> {
        if self.sizes.is_empty() {
            return None;
        }
        let count = u32::try_from(self.sizes.len()).expect("a shard has fewer than 2^32 samples");
        let length = 4 + 4 * (self.sizes.len() + 1) + self.config.len();
        let mut head = Vec::with_capacity(length);
        head.extend_from_slice(&count.to_le_bytes());
        let mut offset = u32::try_from(length).expect("the head of a shard is smaller than 4 GiB");
        head.extend_from_slice(&offset.to_le_bytes());
        for size in self.sizes.drain(..) {
            offset += size;
            head.extend_from_slice(&offset.to_le_bytes());
        }
        head.extend_from_slice(self.config.as_bytes());
        let number = self.shards;
        self.shards += 1;
        Some(Shard { number, samples: count as usize, head, body: std::mem::take(&mut self.samples) })
    }
}

impl Shard {
    /// Size before compression.
    #[must_use]
    pub fn raw_bytes(&self) -> usize {
        self.head.len() + self.body.len()
    }

    /// Compresses the shard. The reader needs the size in the frame's header.
    pub fn store(self) -> std::io::Result<(Vec<u8>, Stored)> {
        let raw_bytes = self.raw_bytes();
        let mut encoder = zstd::stream::Encoder::new(Vec::with_capacity(raw_bytes / 4), ZSTD_LEVEL)?;
        encoder.set_pledged_src_size(Some(raw_bytes as u64))?;
        encoder.write_all(&self.head)?;
        encoder.write_all(&self.body)?;
        let bytes = encoder.finish()?;
        let stored = Stored { samples: self.samples as u64, bytes: bytes.len() as u64, raw_bytes: raw_bytes as u64 };
        Ok((bytes, stored))
    }
}

/// The index of a finished data set.
#[must_use]
pub fn index(layout: Layout, limit: usize, shards: &[Stored]) -> String {
    let file = |basename: String, bytes| FileInfo { basename, bytes, hashes: serde_json::Map::new() };
    let info = |(number, stored): (usize, &Stored)| ShardInfo {
        column_encodings: layout.encodings(),
        column_names: layout.names(),
        column_sizes: layout.names().iter().map(|_| None).collect(),
        compression: "zstd",
        format: "mds",
        hashes: [],
        raw_data: file(shard_name(number).trim_end_matches(".zstd").to_owned(), stored.raw_bytes),
        samples: stored.samples,
        size_limit: limit,
        version: 2,
        zip_data: file(shard_name(number), stored.bytes),
    };
    let shards: Vec<_> = shards.iter().enumerate().map(info).collect();
    json!({"shards": shards, "version": 2}).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a shard back by the format's definition, written down a second time.
    fn read_back(bytes: &[u8], columns: usize) -> Vec<Vec<Vec<u8>>> {
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        (0..word(0))
            .map(|sample| {
                let (start, end) = (word(4 + 4 * sample), word(8 + 4 * sample));
                let mut at = start + 4 * columns;
                let cells = (0..columns).map(|column| {
                    let size = word(start + 4 * column);
                    at += size;
                    bytes[at - size..at].to_vec()
                });
                let cells = cells.collect();
                assert_eq!(at, end);
                cells
            })
            .collect()
    }

    #[test]
    fn a_shard_has_the_bytes_of_the_format() {
        let mut writer = ShardWriter::new(Layout::Pair, SHARD_BYTES, 0);
        let mut sample = Vec::new();
        write_sample(&mut sample, &[b"ab", "é".as_bytes()]);
        assert!(writer.push(&sample).is_none());
        let shard = writer.close().unwrap();
        let config = br#"{"column_encodings":["str","str"],"column_names":["prompt","response"],"column_sizes":[null,null],"compression":"zstd","format":"mds","hashes":[],"size_limit":67108864,"version":2}"#;
        let head = 12 + u32::try_from(config.len()).unwrap();
        let mut expected = Vec::new();
        for number in [1, head, head + 12] {
            expected.extend_from_slice(&number.to_le_bytes());
        }
        expected.extend_from_slice(config);
        expected.extend_from_slice(b"\x02\0\0\0\x02\0\0\0ab\xc3\xa9");
        assert_eq!((shard.number, shard.samples), (0, 1));
        assert_eq!([shard.head, shard.body].concat(), expected);
        assert!(writer.close().is_none());
    }

    #[test]
    fn samples_are_read_back_from_a_compressed_shard() {
        let mut writer = ShardWriter::new(Layout::Pair, SHARD_BYTES, 0);
        for row in 0..300 {
            let mut sample = Vec::new();
            write_sample(&mut sample, &[format!("prompt {row}").as_bytes(), b""]);
            assert!(writer.push(&sample).is_none());
        }
        let (bytes, stored) = writer.close().unwrap().store().unwrap();
        let raw = zstd::bulk::decompress(&bytes, usize::try_from(stored.raw_bytes).unwrap()).unwrap();
        let rows = read_back(&raw, 2);
        assert_eq!((stored.samples, stored.bytes, rows.len()), (300, bytes.len() as u64, 300));
        assert_eq!(rows[299], [b"prompt 299".to_vec(), Vec::new()]);
    }

    #[test]
    fn a_shard_is_closed_before_it_outgrows_its_limit() {
        let mut writer = ShardWriter::new(Layout::Chat, SHARD_BYTES, 0);
        let sample = vec![b' '; 40 << 20];
        assert!(writer.push(&sample).is_none());
        let first = writer.push(&sample).unwrap();
        let second = writer.close().unwrap();
        assert_eq!((first.number, first.samples, second.number, second.samples), (0, 1, 1, 1));
        assert!(first.head.len() + first.body.len() < SHARD_BYTES);
    }

    #[test]
    fn tokens_have_the_shortest_length_field() {
        let mut out = Vec::new();
        write_tokens(&mut out, &[7, 0x1_0000]);
        assert_eq!(out, b"\x0a\0\0\0\x04\x02\x07\0\0\0\0\0\x01\0");
        for (length, head) in [(255, &b"\x04\xff"[..]), (256, b"\x05\x00\x01"), (65536, b"\x06\0\0\x01\0")] {
            let mut out = Vec::new();
            write_tokens(&mut out, &vec![1; length]);
            assert_eq!(&out[4..4 + head.len()], head, "{length}");
            assert_eq!(out.len(), 4 + head.len() + 4 * length);
        }
    }

    #[test]
    fn the_index_says_what_the_reader_needs() {
        assert_eq!(
            index(Layout::Tokens, SHARD_BYTES, &[Stored { samples: 2, bytes: 5, raw_bytes: 9 }]),
            r#"{"shards":[{"column_encodings":["ndarray:int32"],"column_names":["tokens"],"column_sizes":[null],"compression":"zstd","format":"mds","hashes":[],"raw_data":{"basename":"shard.00000.mds","bytes":9,"hashes":{}},"samples":2,"size_limit":67108864,"version":2,"zip_data":{"basename":"shard.00000.mds.zstd","bytes":5,"hashes":{}}}],"version":2}"#
        );
    }
}
