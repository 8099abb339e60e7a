//! One source of a run to converted data below the save folder, or to what was converted there before; the only module
//! that ties the steps of the data path together.

use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use object_store::ObjectStoreExt as _;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;

use super::adapter::{Adapted, Adapter};
use super::fingerprint::{COMPARED_ROWS, Fingerprints};
use super::fitting;
use super::mds::{INDEX, Layout, WRITER_VERSION};
use super::model::Model;
use super::packing::Lengths;
use super::progress::Progress;
use super::rows::{LISTED_BAD_ROWS, Mark, Output, RowReader, RowsError, RowsReport};
use super::rule::BadRow;
use super::sink::{Sink, SinkError};
use super::source::{Location, SourceError, SourceFile, hex};
use super::text::{TextError, TextReader, TextState};
use super::turns::Measure;
use crate::api::TaskType;

/// What was found, kept beside the shards for the next run that reads the same data.
const REPORT: &str = "report.json";
const REPORT_VERSION: u32 = 2;
const MAX_REPORT_BYTES: u64 = 64 << 20;
/// Files that are looked for at once.
const FOUND_AT_ONCE: usize = 16;
/// The fingerprints of the rows, beside the shards too.
const FINGERPRINTS: &str = "fingerprints.bin";

/// Why a source could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The files cannot be found.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The rows cannot be read to their end.
    #[error(transparent)]
    Rows(#[from] RowsError),
    /// The text cannot be read to its end.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The converted data cannot be stored or looked for.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// The work was stopped.
    #[error("the conversion was stopped: {0}")]
    Stopped(#[from] tokio::task::JoinError),
}

/// What a source is prepared for.
#[derive(Debug, Clone)]
pub struct Preparation {
    /// How rows are read.
    pub task: TaskType,
    /// Longest sequence in tokens.
    pub context: u32,
    /// The model whose tokenizer and template count.
    pub model: Arc<Model>,
    /// Root of everything that the run writes.
    pub save_folder: Location,
    /// Threads to work on.
    pub threads: usize,
    /// Largest shard: [`SHARD_BYTES`], but in tests.
    pub shard_bytes: usize,
}

/// Where rows or text come from.
#[derive(Debug, Clone)]
pub struct Source {
    /// Files of rows, in their order, or folders of text.
    pub places: Vec<Location>,
    /// What makes rows of another shape such as can be judged.
    pub adapter: Option<Adapter>,
}

impl From<Location> for Source {
    fn from(place: Location) -> Self {
        Self { places: vec![place], adapter: None }
    }
}

/// What became of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// Identity of the bytes that were read.
    pub digest: String,
    /// Rows, or text files, read.
    pub rows: u64,
    /// Tokens kept.
    pub tokens: u64,
    /// Rows longer than the context.
    pub too_long: u64,
    /// Rows with nothing to train on.
    pub dropped: u64,
    /// Rows that break a rule.
    pub bad: u64,
    /// The first of them.
    pub first_bad: Vec<BadRow>,
    /// Rows that say the same as an earlier one; none where that is not looked for.
    pub duplicates: Option<u64>,
    /// What to do about rows that are longer than the context.
    pub advice: Option<String>,
    /// Samples written.
    pub samples: u64,
    /// How long the kept rows are.
    pub lengths: Lengths,
    /// Folder of the converted data; none if there are bad rows or no samples.
    pub mds: Option<String>,
    /// Whether it was there already.
    pub cached: bool,
}

/// What is kept beside the shards.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Kept {
    version: u32,
    digest: String,
    rows: u64,
    tokens: u64,
    too_long: u64,
    dropped: u64,
    duplicates: Option<u64>,
    advice: Option<String>,
    samples: u64,
    lengths: Vec<(u32, u64)>,
}

impl Preparation {
    /// Converts the source, unless the same source was converted for the same model and options before.
    pub async fn prepare(&self, source: &Source) -> Result<Prepared, PrepareError> {
        let places = futures::stream::iter(&source.places);
        let files: Vec<SourceFile> = if self.task == TaskType::ContinuedPretrain {
            places.then(SourceFile::find_texts).try_concat().await?
        } else {
            places.map(SourceFile::find).buffered(FOUND_AT_ONCE).try_collect().await?
        };
        let adapter = source.adapter;
        let mut versions = Vec::with_capacity(files.len());
        for file in &files {
            versions.push((file.name(), file.version().await?));
        }
        let digest = hash(&json!(versions));
        let folder = self.save_folder.join(&format!("mds/{}", self.key(&digest, adapter)));
        if let Some(kept) = find_kept(&folder).await? {
            return Ok(kept.prepared(&folder));
        }
        let progress = Progress::find(&folder).await?;
        let this = self.clone();
        let handle = Handle::current();
        let prepared = tokio::task::spawn_blocking(move || match this.task {
            TaskType::ContinuedPretrain => this.convert_text(&files, digest, &folder, progress, &handle),
            TaskType::InstructionFinetune | TaskType::ChatCompletion => this.convert_rows(&files, adapter, digest, &folder, progress, &handle),
        });
        prepared.await?
    }

    /// Everything that the converted bytes depend on.
    fn key(&self, digest: &str, adapter: Option<Adapter>) -> String {
        let all = json!({"writer": WRITER_VERSION, "source": digest, "task": self.task, "model": self.model.digest,
            "context": self.context, "adapter": adapter.map(|adapter| format!("{adapter:?}")), "targetPrompts": "none", "targetResponses": "last"});
        hash(&all)[..40].to_owned()
    }

    fn convert_rows(
        &self,
        files: &[SourceFile],
        adapter: Option<Adapter>,
        digest: String,
        folder: &Location,
        progress: Option<Progress>,
        handle: &Handle,
    ) -> Result<Prepared, PrepareError> {
        let layout = if self.task == TaskType::ChatCompletion { Layout::Chat } else { Layout::Pair };
        let measure = Measure { tokenizer: &self.model.tokenizer, template: &self.model.template, context: self.context };
        let reader = RowReader { task: self.task, measure: Some(&measure), threads: self.threads, listed: LISTED_BAD_ROWS };
        let known = progress.and_then(|progress| Some((progress.shards, RowsReport::from_state(&progress.state)?)));
        let known = known.filter(|(_, (_, mark))| mark.file < files.len());
        let (shards, (mut report, mark)) = known.unwrap_or_else(|| (Vec::new(), (RowsReport::default(), Mark::START)));
        let mut sink = Sink::new(layout, self.shard_bytes, shards, folder.clone(), handle.clone());
        let mut first_bad = Vec::new();
        for (number, file) in files.iter().enumerate().skip(mark.file) {
            let found = |row| {
                if first_bad.len() < LISTED_BAD_ROWS {
                    first_bad.push(row);
                }
            };
            let from = if number == mark.file { mark } else { Mark::START };
            let blocks = file.blocks(handle, from.offset, from.line).map_err(|source| RowsError::Read { file: file.name(), source })?;
            let blocks = match adapter {
                Some(adapter) => Box::new(Adapted(blocks, adapter)),
                None => blocks,
            };
            let output = Output { sink: &mut sink, file: number, stored: from.stored };
            reader.read_blocks(&file.name(), blocks, &mut report, Some(output), found)?;
        }
        report.fingerprints.sort();
        let mut prepared = Prepared {
            digest,
            rows: report.rows,
            tokens: report.tokens,
            too_long: report.too_long,
            dropped: report.dropped,
            bad: report.bad,
            first_bad,
            duplicates: Some(report.fingerprints.duplicates()),
            advice: fitting::advice(report.rows - report.bad, &report.long, self.context),
            samples: report.kept,
            lengths: report.lengths,
            mds: None,
            cached: false,
        };
        prepared.store(sink, folder, Some(&report.fingerprints))?;
        Ok(prepared)
    }

    fn convert_text(
        &self,
        files: &[SourceFile],
        digest: String,
        folder: &Location,
        progress: Option<Progress>,
        handle: &Handle,
    ) -> Result<Prepared, PrepareError> {
        let tokenizer = &self.model.tokenizer;
        let end = tokenizer.encode(tokenizer.end_text(), false);
        let end = end.map_err(|source| TextError::Tokenizer { file: "the text of eos_token".to_owned(), source })?;
        let reader = TextReader { tokenizer, length: self.context as usize, begin: Vec::new(), end, wrap: true, threads: self.threads };
        let names: Vec<_> = files.iter().map(SourceFile::name).collect();
        let known = progress.and_then(|progress| Some((progress.shards, TextState::from_bytes(&progress.state)?)));
        let (shards, state) = known.unwrap_or_default();
        let mut sink = Sink::new(Layout::Tokens, self.shard_bytes, shards, folder.clone(), handle.clone());
        let report = reader.store(&names, |index| files[index].reader(handle, 0), state, &mut sink)?;
        let mut prepared = Prepared {
            digest,
            rows: report.files,
            tokens: report.samples * u64::from(self.context),
            too_long: 0,
            dropped: 0,
            bad: 0,
            first_bad: Vec::new(),
            duplicates: None,
            advice: None,
            samples: report.samples,
            lengths: [(self.context, report.samples)].into_iter().collect(),
            mds: None,
            cached: false,
        };
        prepared.store(sink, folder, None)?;
        Ok(prepared)
    }

    /// How many rows of the converted data in the folder `mds` are also in those of `others`; none where rows were not compared.
    pub async fn also_in(&self, mds: &str, others: &str) -> Result<Option<u64>, PrepareError> {
        let fingerprints = async |mds: &str| {
            let name = format!("mds/{}/{FINGERPRINTS}", mds.rsplit('/').next().unwrap_or_default());
            let bytes = self.save_folder.read(&name, COMPARED_ROWS * 8).await;
            bytes.map_err(|source| SinkError::Write { name, source }).map(|bytes| bytes.and_then(|bytes| Fingerprints::from_bytes(&bytes)))
        };
        let (Some(own), Some(others)) = (fingerprints(mds).await?, fingerprints(others).await?) else { return Ok(None) };
        Ok(Some(own.also_in(&others)))
    }
}

impl Prepared {
    /// Makes the converted data complete, or removes them if nobody can train on them.
    fn store(&mut self, sink: Sink, folder: &Location, fingerprints: Option<&Fingerprints>) -> Result<(), SinkError> {
        if self.bad > 0 || self.samples == 0 {
            sink.abandon();
            return Ok(());
        }
        let kept = Kept {
            version: REPORT_VERSION,
            digest: self.digest.clone(),
            rows: self.rows,
            tokens: self.tokens,
            too_long: self.too_long,
            dropped: self.dropped,
            duplicates: self.duplicates,
            advice: self.advice.clone(),
            samples: self.samples,
            lengths: self.lengths.iter().map(|(&length, &count)| (length, count)).collect(),
        };
        if let Some(fingerprints) = fingerprints {
            sink.put(FINGERPRINTS, &fingerprints.to_bytes())?;
        }
        sink.put(REPORT, json!(kept).to_string().as_bytes())?;
        sink.finish()?;
        self.mds = Some(folder.name.clone());
        Ok(())
    }
}

impl Kept {
    fn prepared(self, folder: &Location) -> Prepared {
        Prepared {
            digest: self.digest,
            rows: self.rows,
            tokens: self.tokens,
            too_long: self.too_long,
            dropped: self.dropped,
            bad: 0,
            first_bad: Vec::new(),
            duplicates: self.duplicates,
            advice: self.advice,
            samples: self.samples,
            lengths: self.lengths.into_iter().collect(),
            mds: Some(folder.name.clone()),
            cached: true,
        }
    }
}

/// What an earlier run left; none unless its index, which is written last, is there too.
async fn find_kept(folder: &Location) -> Result<Option<Kept>, SinkError> {
    let failed = |name: &str, source| SinkError::Write { name: folder.join(name).name, source };
    match folder.store.head(&folder.join(INDEX).path).await {
        Ok(_) => {}
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(source) => return Err(failed(INDEX, source)),
    }
    let report = match folder.store.get(&folder.join(REPORT).path).await {
        Ok(report) if report.meta.size <= MAX_REPORT_BYTES => report.bytes().await,
        Ok(_) | Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(source) => Err(source),
    };
    let report = report.map_err(|source| failed(REPORT, source))?;
    Ok(serde_json::from_slice(&report).ok().filter(|kept: &Kept| kept.version == REPORT_VERSION && kept.samples > 0))
}

fn hash(value: &serde_json::Value) -> String {
    hex(&Sha256::digest(value.to_string()))
}

#[cfg(test)]
mod resume_tests;
#[cfg(test)]
mod tests;
