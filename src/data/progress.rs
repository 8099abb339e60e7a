//! How far a conversion has come: a record beside its shards, from which a later preflight goes on when this one dies.
//! Reads and writes one object of the folder.
//!
//! The record is one line of JSON that names the shards that are stored, then whatever the reader of the input needs to give
//! the very samples that come behind them. It is written after every few shards, replaced as a whole, and removed when the
//! index is there. As the same input gives the same bytes, two conversions at once may take each other's records.

use std::collections::BTreeMap;

use futures::TryStreamExt as _;
use object_store::ObjectStoreExt as _;
use serde::{Deserialize, Serialize};

use super::mds::{Stored, shard_name};
use super::sink::SinkError;
use super::source::Location;

/// Name of the record.
pub const PROGRESS: &str = "progress.bin";
/// A record is written when more bytes than so many shards may have were stored behind the last one ...
pub const RECORD_SHARDS: u64 = 4;
/// ... and more than so many times its own.
pub const RECORD_SHARE: u64 = 8;
/// Records are far smaller: 32 MiB of fingerprints, and what is counted.
const MAX_RECORD_BYTES: usize = 128 << 20;
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    version: u32,
    shards: Vec<Stored>,
}

/// What an earlier conversion left.
#[derive(Debug, PartialEq, Eq)]
pub struct Progress {
    /// The shards that are stored, from the first.
    pub shards: Vec<Stored>,
    /// What the reader of the input said of the samples behind them.
    pub state: Vec<u8>,
}

impl Progress {
    /// What was left in this folder. None if there is no record, or one of another version, or one whose shards are not all there:
    /// the conversion then starts from the beginning.
    pub async fn find(folder: &Location) -> Result<Option<Self>, SinkError> {
        let failed = |source| SinkError::Write { name: folder.join(PROGRESS).name, source };
        let record = folder.read(PROGRESS, MAX_RECORD_BYTES).await.map_err(failed)?;
        let Some(progress) = record.and_then(|record| Self::from_bytes(&record)) else { return Ok(None) };
        let sizes = folder.store.list(Some(&folder.path)).map_ok(|meta| (meta.location, meta.size));
        let sizes: BTreeMap<_, _> = sizes.try_collect().await.map_err(failed)?;
        let mut shards = progress.shards.iter().enumerate();
        let are_there = shards.all(|(number, stored)| sizes.get(&folder.join(&shard_name(number)).path) == Some(&stored.bytes));
        Ok(are_there.then_some(progress))
    }

    /// Removes the record; what cannot be removed is never read again.
    pub async fn remove(folder: &Location) {
        let _ = folder.store.delete(&folder.join(PROGRESS).path).await;
    }

    /// The record as it is stored.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let head = serde_json::json!(Head { version: VERSION, shards: self.shards.clone() });
        let mut bytes = format!("{head}\n").into_bytes();
        bytes.extend_from_slice(&self.state);
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (head, state) = split_line(bytes)?;
        let head: Head = serde_json::from_slice(head).ok().filter(|head: &Head| head.version == VERSION)?;
        Some(Self { shards: head.shards, state: state.to_vec() })
    }
}

/// The first line and what is behind it.
pub(super) fn split_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(b'\n', bytes)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::memory::InMemory;
    use std::sync::Arc;

    #[tokio::test]
    async fn a_record_counts_only_with_all_of_its_shards() {
        let folder = Location { store: Arc::new(InMemory::new()), path: "mds/k".into(), name: "s3://b/mds/k".into(), file: None };
        let progress = Progress { shards: vec![Stored { samples: 2, bytes: 3, raw_bytes: 9 }; 2], state: b"state\n\xff".to_vec() };
        let put = async |name: &str, bytes: &[u8]| folder.store.put(&folder.join(name).path, bytes.to_vec().into()).await.unwrap();
        assert_eq!(Progress::find(&folder).await.unwrap(), None);
        put(PROGRESS, &progress.to_bytes()).await;
        put(&shard_name(0), b"abc").await;
        assert_eq!(Progress::find(&folder).await.unwrap(), None);
        put(&shard_name(1), b"ab").await;
        assert_eq!(Progress::find(&folder).await.unwrap(), None);
        put(&shard_name(1), b"abc").await;
        assert_eq!(Progress::find(&folder).await.unwrap(), Some(progress));
        for other in [&b"{\"version\":2,\"shards\":[]}\n"[..], b"{\"version\":1}\n", b"no line", b"\n"] {
            put(PROGRESS, other).await;
            assert_eq!(Progress::find(&folder).await.unwrap(), None);
        }
        Progress::remove(&folder).await;
        Progress::remove(&folder).await;
    }
}
