//! The bytes of a Parquet file in a store, as the library asks for them: in blocks that are kept for a while, and never more
//! than there is room for.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use parquet::errors::{ParquetError, Result};
use parquet::file::reader::{ChunkReader, Length};
use tokio::runtime::Handle;

use super::thrift;

/// What is fetched at once.
const BLOCK_BYTES: u64 = 4 << 20;
/// Blocks that are kept: each column is read from one of its own.
const KEPT_BLOCKS: usize = 8;
/// The longest footer.
const MAX_FOOTER_BYTES: usize = 16 << 20;
/// The longest page header; it may quote the smallest and the largest value of its page.
const MAX_HEADER_BYTES: u64 = 1 << 20;
/// What pages may have together, compressed and not, until [`Ranges::begin`] is called again.
const MAX_PAGE_BYTES: i64 = 128 << 20;
/// The length of the footer and the magic number stand at the very end.
const TAIL_BYTES: u64 = 8;

/// A file that is read in pieces.
#[derive(Clone)]
pub(super) struct Ranges(Arc<Shared>);

struct Shared {
    store: Arc<dyn ObjectStore>,
    path: Path,
    size: u64,
    handle: Handle,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    blocks: VecDeque<(u64, Bytes)>,
    page_bytes: i64,
    failed: Option<object_store::Error>,
}

impl Ranges {
    pub(super) fn new(store: Arc<dyn ObjectStore>, path: Path, size: u64, handle: Handle) -> Self {
        Self(Arc::new(Shared { store, path, size, handle, state: Mutex::default() }))
    }

    /// From here on pages may have as many bytes as ever.
    pub(super) fn begin(&self) {
        self.state(|state| state.page_bytes = 0);
    }

    /// The store's error, if one was the cause.
    pub(super) fn failure(&self) -> Option<object_store::Error> {
        self.state(|state| state.failed.take())
    }

    fn state<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The block that begins at `start`.
    fn block(&self, start: u64) -> io::Result<Bytes> {
        let known = self.state(|state| {
            let at = state.blocks.iter().position(|(known, _)| *known == start)?;
            let block = state.blocks.remove(at)?;
            state.blocks.push_back(block.clone());
            Some(block.1)
        });
        if let Some(bytes) = known {
            return Ok(bytes);
        }
        let Shared { store, path, size, handle, .. } = &*self.0;
        let range = start..size.min(&(start + BLOCK_BYTES)).to_owned();
        let length = range.end - range.start;
        match handle.block_on(store.get_range(path, range)) {
            Ok(bytes) if bytes.len() as u64 == length => {
                self.state(|state| {
                    if state.blocks.len() == KEPT_BLOCKS {
                        state.blocks.pop_front();
                    }
                    state.blocks.push_back((start, bytes.clone()));
                });
                Ok(bytes)
            }
            Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) => {
                let told = io::Error::other(error.to_string());
                self.state(|state| state.failed = Some(error));
                Err(told)
            }
        }
    }

    fn bytes(&self, start: u64, length: u64) -> io::Result<Bytes> {
        let end = start.checked_add(length).filter(|end| *end <= self.0.size).ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut all = BytesMut::new();
        let mut at = start;
        while at < end {
            let begin = at - at % BLOCK_BYTES;
            let block = self.block(begin)?;
            let inside = |place: u64| usize::try_from(place - begin).unwrap_or(usize::MAX).min(block.len());
            all.extend_from_slice(&block[inside(at)..inside(end)]);
            at = begin + BLOCK_BYTES;
        }
        Ok(all.freeze())
    }

    /// What the pages claim is added up before the library makes room for it.
    fn page(&self, start: u64) -> io::Result<()> {
        let header = self.bytes(start, MAX_HEADER_BYTES.min(self.0.size - start))?;
        let sizes = thrift::page_sizes(&header).ok_or_else(|| invalid("a page has no header"))?;
        let sum = self.state(|state| {
            state.page_bytes = state.page_bytes.saturating_add(sizes.uncompressed).saturating_add(sizes.compressed);
            state.page_bytes
        });
        if sum > MAX_PAGE_BYTES {
            return Err(invalid("its pages are too large to be read in bounded memory: write it with pages of about 1 MiB"));
        }
        Ok(())
    }
}

fn invalid(problem: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

impl Length for Ranges {
    fn len(&self) -> u64 {
        self.0.size
    }
}

impl ChunkReader for Ranges {
    type T = FromHere;

    fn get_read(&self, start: u64) -> Result<FromHere> {
        let is_page = start.saturating_add(TAIL_BYTES) != self.0.size;
        Ok(FromHere { ranges: self.clone(), at: start.min(self.0.size), is_page })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        let is_footer = start.saturating_add(length as u64).saturating_add(TAIL_BYTES) == self.0.size;
        if is_footer && length > MAX_FOOTER_BYTES {
            return Err(ParquetError::General("its footer is longer than 16 MiB".to_owned()));
        }
        if length as u64 > MAX_PAGE_BYTES.cast_unsigned() {
            return Err(ParquetError::General("a page is longer than any that is read".to_owned()));
        }
        let bytes = self.bytes(start, length as u64)?;
        if is_footer && !thrift::is_shallow(&bytes) {
            return Err(ParquetError::General("its footer is damaged, or its columns are nested deeper than 32".to_owned()));
        }
        Ok(bytes)
    }
}

/// The bytes from one place on. Where the library reads in this way, a page header begins, or the tail of the file.
pub(super) struct FromHere {
    ranges: Ranges,
    at: u64,
    is_page: bool,
}

impl Read for FromHere {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // The library may ask for a reader that it then does not read from.
        if std::mem::take(&mut self.is_page) {
            self.ranges.page(self.at)?;
        }
        let begin = self.at - self.at % BLOCK_BYTES;
        if self.at >= self.ranges.0.size {
            return Ok(0);
        }
        let block = self.ranges.block(begin)?;
        let rest = &block[usize::try_from(self.at - begin).unwrap_or(usize::MAX).min(block.len())..];
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        self.at += length as u64;
        Ok(length)
    }
}
