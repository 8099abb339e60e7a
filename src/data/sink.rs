//! Stores shards while samples still come: one thread compresses and uploads, and nobody waits but for its turn.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use object_store::{ObjectStore, ObjectStoreExt as _};
use tokio::runtime::Handle;

use super::mds::{INDEX, Layout, Shard, ShardInfo, ShardWriter, index};
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

/// Takes samples, stores shards in a folder.
pub struct Sink {
    writer: ShardWriter,
    folder: Location,
    handle: Handle,
    samples: u64,
    shards: Option<SyncSender<Shard>>,
    thread: Option<JoinHandle<Result<Vec<ShardInfo>, SinkError>>>,
}

impl Sink {
    /// A sink that fills this folder. `handle` is the runtime that the store's requests run in.
    #[must_use]
    pub fn new(layout: Layout, folder: Location, handle: Handle) -> Self {
        // One shard is filled, one is compressed and uploaded, none waits between: that bounds the memory.
        let (sender, receiver) = sync_channel(0);
        let thread = std::thread::spawn({
            let (folder, handle) = (folder.clone(), handle.clone());
            move || store_all(layout, &receiver, &folder, &handle)
        });
        Self { writer: ShardWriter::new(layout), folder, handle, samples: 0, shards: Some(sender), thread: Some(thread) }
    }

    /// Adds one encoded sample.
    pub fn push(&mut self, sample: &[u8]) -> Result<(), SinkError> {
        self.samples += 1;
        match self.writer.push(sample) {
            Some(shard) => self.send(shard),
            None => Ok(()),
        }
    }

    /// Samples so far.
    #[must_use]
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// Stores what is left, then the index: a folder with an index is complete.
    pub fn finish(mut self) -> Result<u64, SinkError> {
        if let Some(shard) = self.writer.close() {
            self.send(shard)?;
        }
        let infos = self.join()?;
        put(&self.folder, INDEX, index(&infos).into_bytes(), &self.handle)?;
        Ok(self.samples)
    }

    /// Stores another file beside the shards, which is there when the index is.
    pub fn put(&self, name: &str, content: &[u8]) -> Result<(), SinkError> {
        put(&self.folder, name, content.to_vec(), &self.handle)
    }

    /// Removes the shards that were stored. There is no index, so nobody has read them.
    pub fn abandon(mut self) {
        let stored = self.join().map_or(0, |infos| infos.len());
        for number in 0..stored {
            let path = self.folder.join(&format!("shard.{number:05}.mds.zstd")).path;
            // What stays is overwritten with the same bytes by the next run that gets further.
            let _ = self.handle.block_on(self.folder.store.delete(&path));
        }
    }

    fn send(&mut self, shard: Shard) -> Result<(), SinkError> {
        let sent = self.shards.as_ref().is_some_and(|shards| shards.send(shard).is_ok());
        if sent { Ok(()) } else { self.join().and(Err(SinkError::Died)) }
    }

    fn join(&mut self) -> Result<Vec<ShardInfo>, SinkError> {
        self.shards = None;
        self.thread.take().ok_or(SinkError::Died)?.join().unwrap_or(Err(SinkError::Died))
    }
}

fn store_all(layout: Layout, shards: &Receiver<Shard>, folder: &Location, handle: &Handle) -> Result<Vec<ShardInfo>, SinkError> {
    let mut infos = Vec::new();
    for shard in shards {
        let stored = shard.store()?;
        infos.push(ShardWriter::describe(layout, &stored));
        put(folder, &stored.name, stored.bytes, handle)?;
    }
    Ok(infos)
}

fn put(folder: &Location, name: &str, content: Vec<u8>, handle: &Handle) -> Result<(), SinkError> {
    let target = folder.join(name);
    let store: &Arc<dyn ObjectStore> = &target.store;
    handle.block_on(store.put(&target.path, content.into())).map(|_| ()).map_err(|source| SinkError::Write { name: target.name, source })
}

#[cfg(test)]
mod tests {
    use super::*;
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
        let mut sink = Sink::new(Layout::Chat, folder.clone(), runtime.handle().clone());
        for _ in 0..3 {
            sink.push(&vec![0; 30 << 20]).unwrap();
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
        let mut sink = Sink::new(Layout::Chat, folder.clone(), runtime.handle().clone());
        for _ in 0..3 {
            sink.push(&vec![0; 30 << 20]).unwrap();
        }
        sink.abandon();
        assert_eq!(names(&folder, runtime.handle()), [""; 0]);
    }
}
