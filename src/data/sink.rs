//! Stores shards while samples still come: one thread compresses and uploads, and nobody waits but for its turn.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use object_store::{ObjectStore, ObjectStoreExt as _};
use tokio::runtime::Handle;

use super::mds::{INDEX, Layout, Shard, ShardWriter, Stored, index, shard_name};
use super::progress::{PROGRESS, Progress, RECORD_SHARDS, RECORD_SHARE};
use super::source::Location;

/// Why samples could not be stored.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// A shard could not be compressed.
    #[error("compress a shard: {0}")]
    Compress(#[from] std::io::Error),
    /// The store refused an object.
    #[error("write {name}: {source}")]
    Write {
        /// The object.
        name: String,
        /// What the store said.
        source: object_store::Error,
    },
    /// The thread that stores died.
    #[error("the thread that stores shards has died")]
    Died,
}

/// Takes samples, stores shards in a folder, and now and then a record of how far it has come.
pub struct Sink {
    writer: ShardWriter,
    layout: Layout,
    limit: usize,
    folder: Location,
    handle: Handle,
    samples: u64,
    unrecorded: u64,
    record: u64,
    shards: Option<SyncSender<Sent>>,
    thread: Option<JoinHandle<Result<Vec<Stored>, SinkError>>>,
}

impl Sink {
    /// A sink that fills this folder with shards of at most `limit` bytes, behind those that are stored there already. `handle` is the
    /// runtime that the store's requests run in.
    #[must_use]
    pub fn new(layout: Layout, limit: usize, stored: Vec<Stored>, folder: Location, handle: Handle) -> Self {
        let (writer, samples) = (ShardWriter::new(layout, limit, stored.len()), stored.iter().map(|stored| stored.samples).sum());
        // One shard is filled, one is compressed and uploaded, none waits between: that bounds the memory.
        let (sender, receiver) = sync_channel(0);
        let thread = std::thread::spawn({
            let (folder, handle) = (folder.clone(), handle.clone());
            move || store_all(stored, &receiver, &folder, &handle)
        });
        Self { writer, layout, limit, folder, handle, samples, unrecorded: 0, record: 0, shards: Some(sender), thread: Some(thread) }
    }

    /// Adds one encoded sample. `state` says what is needed to go on with this very sample.
    pub fn push(&mut self, sample: &[u8], state: impl FnOnce() -> Vec<u8>) -> Result<(), SinkError> {
        self.samples += 1;
        let Some(shard) = self.writer.push(sample) else { return Ok(()) };
        self.unrecorded += shard.raw_bytes() as u64;
        let is_due = self.unrecorded > (RECORD_SHARDS * self.limit as u64).max(RECORD_SHARE * self.record);
        let state = is_due.then(state);
        if let Some(state) = &state {
            (self.unrecorded, self.record) = (0, state.len() as u64);
        }
        self.send(shard, state)
    }

    /// Samples so far, with those of the shards that were there already.
    #[must_use]
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// Stores what is left, then the index: a folder with an index is complete.
    pub fn finish(mut self) -> Result<u64, SinkError> {
        if let Some(shard) = self.writer.close() {
            self.send(shard, None)?;
        }
        let stored = self.join()?;
        put(&self.folder, INDEX, index(self.layout, self.limit, &stored).into_bytes(), &self.handle)?;
        self.handle.block_on(Progress::remove(&self.folder));
        Ok(self.samples)
    }

    /// Stores another file beside the shards, which is there when the index is.
    pub fn put(&self, name: &str, content: &[u8]) -> Result<(), SinkError> {
        put(&self.folder, name, content.to_vec(), &self.handle)
    }

    /// Removes the shards that were stored and their record. There is no index, so nobody has read them. Only for data that nobody can
    /// convert: another run may be about to, and counts on shards that have its bytes.
    pub fn abandon(mut self) {
        let stored = self.join().map_or(0, |stored| stored.len());
        self.handle.block_on(async {
            Progress::remove(&self.folder).await;
            for number in 0..stored {
                // What stays is overwritten with the same bytes by the next run that gets further.
                let _ = self.folder.store.delete(&self.folder.join(&shard_name(number)).path).await;
            }
        });
    }

    fn send(&mut self, shard: Shard, state: Option<Vec<u8>>) -> Result<(), SinkError> {
        let sent = self.shards.as_ref().is_some_and(|shards| shards.send((shard, state)).is_ok());
        if sent { Ok(()) } else { self.join().and(Err(SinkError::Died)) }
    }

    fn join(&mut self) -> Result<Vec<Stored>, SinkError> {
        self.shards = None;
        self.thread.take().ok_or(SinkError::Died)?.join().unwrap_or(Err(SinkError::Died))
    }
}

type Sent = (Shard, Option<Vec<u8>>);

fn store_all(mut all: Vec<Stored>, shards: &Receiver<Sent>, folder: &Location, handle: &Handle) -> Result<Vec<Stored>, SinkError> {
    for (shard, state) in shards {
        let name = shard_name(shard.number);
        let (bytes, stored) = shard.store()?;
        put(folder, &name, bytes, handle)?;
        all.push(stored);
        if let Some(state) = state {
            let progress = Progress { shards: all.clone(), state };
            put(folder, PROGRESS, progress.to_bytes(), handle)?;
        }
    }
    Ok(all)
}

fn put(folder: &Location, name: &str, content: Vec<u8>, handle: &Handle) -> Result<(), SinkError> {
    let target = folder.join(name);
    let store: &Arc<dyn ObjectStore> = &target.store;
    handle.block_on(store.put(&target.path, content.into())).map(|_| ()).map_err(|source| SinkError::Write { name: target.name, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::mds::SHARD_BYTES;
    use object_store::memory::InMemory;
    use object_store::path::Path;

    fn folder() -> Location {
        Location { store: Arc::new(InMemory::new()), path: Path::from("mds/k"), name: "s3://b/mds/k".into(), file: None }
    }

    fn names(folder: &Location, handle: &Handle) -> Vec<String> {
        use futures::TryStreamExt as _;
        let metas: Vec<_> = handle.block_on(folder.store.list(None).try_collect()).unwrap();
        let mut names: Vec<_> = metas.into_iter().map(|meta| meta.location.to_string()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_finished_sink_has_shards_report_and_index() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let folder = folder();
        let mut sink = Sink::new(Layout::Chat, SHARD_BYTES, Vec::new(), folder.clone(), runtime.handle().clone());
        for _ in 0..3 {
            sink.push(&vec![0; 30 << 20], Vec::new).unwrap();
        }
        sink.put("report.json", b"{}").unwrap();
        assert_eq!(sink.finish().unwrap(), 3);
        assert_eq!(
            names(&folder, runtime.handle()),
            ["mds/k/index.json", "mds/k/report.json", "mds/k/shard.00000.mds.zstd", "mds/k/shard.00001.mds.zstd"]
        );
    }

    #[test]
    fn an_abandoned_sink_leaves_nothing() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let folder = folder();
        let mut sink = Sink::new(Layout::Chat, SHARD_BYTES, Vec::new(), folder.clone(), runtime.handle().clone());
        for _ in 0..3 {
            sink.push(&vec![0; 30 << 20], Vec::new).unwrap();
        }
        sink.abandon();
        assert_eq!(names(&folder, runtime.handle()), [""; 0]);
    }
}
