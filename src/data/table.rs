//! Rows of a Parquet file as lines of JSON, in blocks like those of a file of lines; reads only what it is given.
//!
//! Each row becomes the object that its columns make, nested lists and structs too, so that every rule is asked as of JSONL,
//! and a line number is the number of the row. A file of any size is read with bounded memory: pages are fetched as they are
//! needed, and what they claim to hold is looked at before.

mod ranges;
mod thrift;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::path::Path;
use parquet::file::reader::FileReader as _;
use parquet::file::serialized_reader::{ReadOptionsBuilder, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use tokio::runtime::Handle;

use super::blocks::{Block, Cut, MAX_LINE_BYTES};
use super::rule::shown;
use ranges::Ranges;

/// Size that a block is filled to before it is handed on.
const BLOCK_BYTES: usize = 1 << 20;
/// What the values that are read ahead of a column should have at most.
const AHEAD_BYTES: i64 = 4 << 20;

/// Why a file is no table that can be read, in words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(String);

/// Gives the rows of one Parquet file.
pub struct Table {
    rows: RowIter<'static>,
    ranges: Ranges,
    next: u64,
    /// The front of a row that no block has room for.
    too_long: Option<Vec<u8>>,
}

impl Table {
    /// The rows of the file of `size` bytes, from row `offset` on (from 0). It blocks its thread, here and with every block.
    pub fn open(store: Arc<dyn ObjectStore>, path: Path, size: u64, handle: Handle, offset: u64) -> io::Result<Self> {
        let ranges = Ranges::new(store, path, size, handle);
        let opened = guarded(&ranges, "the footer", || {
            let whole = SerializedFileReader::new(ranges.clone())?;
            let metadata = whole.metadata();
            let (mut before, mut group) = (0u64, 0);
            let (mut rows, mut bytes) = (0i64, 0i64);
            for (number, meta) in metadata.row_groups().iter().enumerate() {
                (rows, bytes) = (rows.saturating_add(meta.num_rows().max(0)), bytes.saturating_add(meta.total_byte_size().max(0)));
                let through = before + u64::try_from(meta.num_rows()).unwrap_or(0);
                if through <= offset && number == group {
                    (before, group) = (through, number + 1);
                }
            }
            let ahead = (AHEAD_BYTES / (bytes / rows.max(1)).max(1)).clamp(1, 256);
            let from_group = ReadOptionsBuilder::new().with_predicate(Box::new(move |_, number| number >= group)).build();
            let file = SerializedFileReader::new_with_options(ranges.clone(), from_group)?;
            let rows = RowIter::from_file_into(Box::new(file)).with_batch_size(usize::try_from(ahead).unwrap_or(1));
            Ok((rows, before))
        })?;
        let (rows, before) = opened;
        let mut table = Self { rows, ranges, next: before, too_long: None };
        while table.next < offset && table.row()?.is_some() {}
        Ok(table)
    }

    /// The next row; none at the end.
    fn row(&mut self) -> io::Result<Option<Row>> {
        let number = self.next + 1;
        let row = guarded(&self.ranges, &format!("row {number}"), || self.rows.next().transpose())?;
        self.next += u64::from(row.is_some());
        Ok(row)
    }
}

impl Cut for Table {
    fn next_block(&mut self) -> io::Result<Option<Block>> {
        let offset = self.next;
        let mut bytes = Vec::new();
        while self.too_long.is_none() && bytes.len() < BLOCK_BYTES {
            self.ranges.begin();
            let Some(row) = self.row()? else { break };
            let start = bytes.len();
            write_object(&mut bytes, &row);
            bytes.push(b'\n');
            if bytes.len() - start > MAX_LINE_BYTES {
                self.too_long = Some(bytes[start..start + 64].to_vec());
                bytes.truncate(start);
            }
        }
        if !bytes.is_empty() {
            return Ok(Some(Block { offset, first_line: offset + 1, bytes, too_long: false }));
        }
        let front = self.too_long.take();
        Ok(front.map(|bytes| Block { offset: self.next - 1, first_line: self.next, bytes, too_long: true }))
    }
}

/// What the library gives, or why it does not. It may panic on a file that nobody can have written.
fn guarded<T>(ranges: &Ranges, place: &str, read: impl FnOnce() -> parquet::errors::Result<T>) -> io::Result<T> {
    let problem = match catch_unwind(AssertUnwindSafe(read)) {
        Ok(Ok(read)) => return Ok(read),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it contradicts itself".to_owned(),
    };
    if let Some(error) = ranges.failure() {
        return Err(io::Error::other(error));
    }
    let problem = if problem.contains("as String. Bytes") { "a text is not UTF-8" } else { problem.as_str() };
    let problem = problem.strip_prefix("Parquet error: ").unwrap_or(problem);
    Err(io::Error::new(io::ErrorKind::InvalidData, Unreadable(format!("{place} cannot be read as Parquet: {}", shown(problem, 200)))))
}

fn write_object(out: &mut Vec<u8>, row: &Row) {
    out.push(b'{');
    for (number, (name, field)) in row.get_column_iter().enumerate() {
        if number > 0 {
            out.push(b',');
        }
        write_text(out, name);
        out.push(b':');
        write(out, field);
    }
    out.push(b'}');
}

/// A field as JSON. What JSON has no word for becomes a value of a kind that no rule takes for a text.
fn write(out: &mut Vec<u8>, field: &Field) {
    match field {
        Field::Null => out.extend_from_slice(b"null"),
        Field::Bool(value) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
        Field::Str(text) => write_text(out, text),
        Field::Group(row) => write_object(out, row),
        Field::ListInternal(list) => {
            out.push(b'[');
            for (number, element) in list.elements().iter().enumerate() {
                if number > 0 {
                    out.push(b',');
                }
                write(out, element);
            }
            out.push(b']');
        }
        Field::MapInternal(_) => out.extend_from_slice(b"{}"),
        Field::Bytes(_) => out.extend_from_slice(b"[]"),
        _ => out.push(b'0'),
    }
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    // Memory takes everything.
    let _ = serde_json::to_writer(out, text);
}

#[cfg(test)]
mod tests;
