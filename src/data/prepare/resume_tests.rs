//! A conversion that dies at any point, and the ones that go on after it, leave what one that lives leaves.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetRange, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result,
};

use super::*;
use crate::data::progress::PROGRESS;
use crate::data::tokenizer::tests::files;

/// A store that dies after so many writes: then it refuses everything.
#[derive(Debug)]
struct Mortal {
    inner: Arc<InMemory>,
    writes_left: AtomicUsize,
    offsets: Mutex<Vec<u64>>,
}

impl Mortal {
    fn new(inner: &Arc<InMemory>, writes: usize) -> Arc<Self> {
        Arc::new(Self { inner: Arc::clone(inner), writes_left: AtomicUsize::new(writes), offsets: Mutex::default() })
    }

    fn live(&self) -> Result<()> {
        if self.writes_left.load(Ordering::SeqCst) == 0 {
            return Err(object_store::Error::Generic { store: "mortal", source: "dead".into() });
        }
        Ok(())
    }
}

impl std::fmt::Display for Mortal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("mortal")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Mortal {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.live()?;
        self.writes_left.fetch_sub(1, Ordering::SeqCst);
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        unimplemented!("nothing is that large")
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if let Some(GetRange::Offset(offset)) = options.range {
            self.offsets.lock().unwrap().push(offset);
        }
        self.live()?;
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        match self.live() {
            Ok(()) => self.inner.delete_stream(locations),
            Err(error) => futures::stream::once(async { Err(error) }).boxed(),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

fn place(store: Arc<dyn ObjectStore>, path: &str) -> Location {
    Location { store, path: Path::from(path), name: format!("s3://b/{path}"), file: None }
}

struct Bench {
    task: TaskType,
    context: u32,
    shard_bytes: usize,
    source: Arc<Mortal>,
    path: &'static str,
    model: Arc<Model>,
}

impl Bench {
    async fn new(task: TaskType, context: u32, shard_bytes: usize, path: &'static str, inputs: &[(&str, Vec<u8>)]) -> Self {
        let source = Mortal::new(&Arc::new(InMemory::new()), usize::MAX);
        for (name, bytes) in inputs {
            source.put(&Path::from(*name), bytes.clone().into()).await.unwrap();
        }
        let model = Arc::new(Model::new(&files(&json!({"eos_token": "</s>"})), None).unwrap());
        Self { task, context, shard_bytes, source, path, model }
    }

    /// Converts into a store that dies after so many writes.
    async fn prepare(&self, into: &Arc<InMemory>, writes: usize) -> std::result::Result<Prepared, PrepareError> {
        let save_folder = place(Mortal::new(into, writes), "out");
        let Self { task, context, shard_bytes, .. } = *self;
        let preparation = Preparation { task, context, model: Arc::clone(&self.model), save_folder, threads: 2, shard_bytes };
        preparation.prepare(&place(Arc::<Mortal>::clone(&self.source), self.path).into()).await
    }

    /// Dies at every write in turn and goes on; then dies again and again on one way.
    async fn dies_at_every_write(&self, records: usize) {
        let whole = Arc::new(InMemory::new());
        let expected = self.prepare(&whole, usize::MAX).await.unwrap();
        let objects = stored(&whole).await;
        let mut resumed = 0;
        for writes in 0.. {
            let store = Arc::new(InMemory::new());
            if self.prepare(&store, writes).await.is_ok() {
                break;
            }
            let record = stored(&store).await.into_keys().any(|name| name.ends_with(PROGRESS));
            resumed += usize::from(record);
            let before = self.source.offsets.lock().unwrap().len();
            assert_eq!(self.prepare(&store, usize::MAX).await.unwrap(), expected, "{writes}");
            assert!(stored(&store).await == objects, "{writes}");
            let after = self.source.offsets.lock().unwrap()[before..].to_vec();
            assert!(after.iter().all(|offset| record && *offset > 0), "{writes}: {after:?}");
        }
        assert!(resumed >= records, "{resumed}");
        let store = Arc::new(InMemory::new());
        let mut lives = 0;
        let survivor = loop {
            lives += 1;
            assert!(lives < 30, "no life gets further than the one before");
            if let Ok(prepared) = self.prepare(&store, 7).await {
                break prepared;
            }
        };
        assert!(lives > 2);
        assert_eq!((survivor, stored(&store).await == objects), (expected, true));
    }
}

async fn stored(store: &InMemory) -> BTreeMap<String, Vec<u8>> {
    let metas: Vec<_> = store.list(None).try_collect().await.unwrap();
    let mut all = BTreeMap::new();
    for meta in metas {
        let bytes = store.get(&meta.location).await.unwrap().bytes().await.unwrap();
        all.insert(meta.location.to_string(), bytes.to_vec());
    }
    all
}

/// Four blocks of rows: long, so that they are many bytes and few tokens; some repeat, some are dropped.
fn rows() -> Vec<u8> {
    let mut rows = Vec::new();
    for row in 0..72 {
        let word = ["x", "y", "z"][row % 3].repeat(50_000 + row / 6);
        let (prompt, response) = if row % 11 == 5 { ("a b c d a b c d a b c d", word.as_str()) } else { (word.as_str(), "b") };
        rows.extend(format!("{{\"prompt\":\"{prompt}\",\"response\":\"{response}\"}}\n").into_bytes());
    }
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_cut_off_at_any_write_are_gone_on_with() {
    let bench = Bench::new(TaskType::InstructionFinetune, 8, 300_000, "rows.jsonl", &[("rows.jsonl", rows())]).await;
    bench.dies_at_every_write(6).await;
    assert!(bench.source.offsets.lock().unwrap().iter().any(|offset| *offset > 1 << 20));
    let prepared = bench.prepare(&Arc::new(InMemory::new()), usize::MAX).await.unwrap();
    assert_eq!((prepared.rows, prepared.samples, prepared.dropped, prepared.duplicates), (72, 65, 7, Some(29)));
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_rows_are_gone_on_with_too() {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&rows()).unwrap();
    let content = [("rows.jsonl.gz", encoder.finish().unwrap())];
    Bench::new(TaskType::InstructionFinetune, 8, 300_000, "rows.jsonl.gz", &content).await.dies_at_every_write(6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn text_that_is_cut_off_at_any_write_is_gone_on_with() {
    let word = format!("{} ", "x".repeat(9999));
    let texts = [("t/a.txt", word.repeat(230).into_bytes()), ("t/b.txt", Vec::new()), ("t/c.txt", format!("a b {}", word.repeat(110)).into_bytes())];
    let bench = Bench::new(TaskType::ContinuedPretrain, 4, 400, "t", &texts).await;
    bench.dies_at_every_write(4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_conversions_at_once_leave_what_one_leaves() {
    let bench = Bench::new(TaskType::InstructionFinetune, 8, 300_000, "rows.jsonl", &[("rows.jsonl", rows())]).await;
    let (alone, shared) = (Arc::new(InMemory::new()), Arc::new(InMemory::new()));
    let expected = bench.prepare(&alone, usize::MAX).await.unwrap();
    // One dies on the way, two live.
    let (dead, one, other) = tokio::join!(bench.prepare(&shared, 12), bench.prepare(&shared, usize::MAX), bench.prepare(&shared, usize::MAX));
    assert!(dead.is_err());
    for prepared in [one.unwrap(), other.unwrap()] {
        assert_eq!(Prepared { cached: false, ..prepared }, expected);
    }
    let mut left = stored(&shared).await;
    left.retain(|name, _| !name.ends_with(PROGRESS));
    assert!(left == stored(&alone).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_something_else_starts_from_the_beginning() {
    let bench = Bench::new(TaskType::InstructionFinetune, 8, 300_000, "rows.jsonl", &[("rows.jsonl", rows())]).await;
    let whole = Arc::new(InMemory::new());
    let expected = bench.prepare(&whole, usize::MAX).await.unwrap();
    let folder = expected.mds.clone().unwrap().replace("s3://b/", "");
    for record in
        ["{\"version\":1,\"shards\":[]}\nnonsense", "{\"version\":1,\"shards\":[]}\n{\"mark\":{\"file\":9,\"offset\":0,\"line\":1,\"stored\":0}}\n"]
    {
        let store = Arc::new(InMemory::new());
        store.put(&Path::from(format!("{folder}/{PROGRESS}")), record.into()).await.unwrap();
        assert_eq!(bench.prepare(&store, usize::MAX).await.unwrap(), expected);
        assert!(stored(&store).await == stored(&whole).await);
    }
}
