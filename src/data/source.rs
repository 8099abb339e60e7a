//! Finds the files of a place and streams their bytes; reads from stores and folders, writes nothing.

use std::io::{self, Read, Seek as _};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt as _};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::blocks::{Blocks, Cut};
use super::table::Table;

/// The most text files in one folder.
const MAX_FILES: usize = 1_000_000;
/// Chunks of a download that wait to be read.
const WAITING_CHUNKS: usize = 8;
/// Longest piece that is taken from a local file at once.
const PIECE_BYTES: usize = 1 << 20;

/// A file or folder in an open store.
#[derive(Debug, Clone)]
pub struct Location {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// The object or folder in it.
    pub path: Path,
    /// The place as the run spells it.
    pub name: String,
    /// Where it lies on this machine, if it does: then it is read without the store.
    pub file: Option<PathBuf>,
}

impl Location {
    /// A file or folder of this machine.
    pub fn of_file(file: &std::path::Path) -> Result<Self, object_store::path::Error> {
        let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        let path = Path::from_absolute_path(&file)?;
        Ok(Self { store: Arc::new(LocalFileSystem::new()), path, name: file.display().to_string(), file: Some(file) })
    }

    /// What lies below this folder under a name, which may have slashes.
    #[must_use]
    pub fn join(&self, name: &str) -> Self {
        Self {
            store: Arc::clone(&self.store),
            path: name.split('/').fold(self.path.clone(), Path::join),
            name: format!("{}/{name}", self.name.trim_end_matches('/')),
            file: self.file.as_ref().map(|file| file.join(name)),
        }
    }

    /// The content of the file of this name below; none if there is no such file. More than `limit` bytes are an error.
    pub async fn read(&self, name: &str, limit: usize) -> object_store::Result<Option<Bytes>> {
        let at = self.join(name);
        let found = match at.store.get(&at.path).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        if found.meta.size > limit as u64 {
            let source = format!("{} has {} bytes, at most {limit} are read", at.name, found.meta.size).into();
            return Err(object_store::Error::Generic { store: "location", source });
        }
        found.bytes().await.map(Some)
    }
}

/// One file that can be read.
#[derive(Debug, Clone)]
pub struct SourceFile {
    at: Location,
    meta: ObjectMeta,
}

/// Why the files of a place cannot be found or read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The store says no.
    #[error("{place}: {source}")]
    Store {
        /// What was asked for.
        place: String,
        /// What the store said.
        source: object_store::Error,
    },
    /// There is no text file below the folder.
    #[error("{0} has no file whose name ends with .txt, at any depth")]
    NoTextFiles(String),
    /// There are too many.
    #[error("{0} has more than {MAX_FILES} text files: join them into fewer")]
    TooManyFiles(String),
    /// A local file cannot be hashed.
    #[error("{place}: {source}")]
    Read {
        /// The file.
        place: String,
        /// Why.
        source: io::Error,
    },
}

impl SourceFile {
    /// The file at this very place.
    pub async fn find(at: &Location) -> Result<Self, SourceError> {
        let meta = at.store.head(&at.path).await.map_err(|source| store_error(at, source))?;
        Ok(Self { at: at.clone(), meta })
    }

    /// Every file below this place whose name ends with `.txt`, in the order of their names.
    pub async fn find_texts(at: &Location) -> Result<Vec<Self>, SourceError> {
        let mut names = at.store.list(Some(&at.path));
        let mut files = Vec::new();
        while let Some(meta) = names.next().await.transpose().map_err(|source| store_error(at, source))? {
            if meta.location.extension() != Some("txt") {
                continue;
            }
            if files.len() == MAX_FILES {
                return Err(SourceError::TooManyFiles(at.name.clone()));
            }
            let parts = meta.location.prefix_match(&at.path);
            let below = parts.map(|parts| parts.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/"));
            let file = Location { path: meta.location.clone(), ..below.map_or_else(|| at.clone(), |below| at.join(&below)) };
            files.push(Self { at: file, meta });
        }
        if files.is_empty() {
            return Err(SourceError::NoTextFiles(at.name.clone()));
        }
        files.sort_by(|a, b| a.meta.location.cmp(&b.meta.location));
        Ok(files)
    }

    /// The name to show.
    #[must_use]
    pub fn name(&self) -> String {
        self.at.name.clone()
    }

    /// Size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.meta.size
    }

    /// What identifies the bytes: the store's version or tag, else a hash of the content.
    pub async fn version(&self) -> Result<String, SourceError> {
        if self.at.file.is_none() {
            let known = self.meta.version.as_deref().or(self.meta.e_tag.as_deref());
            let modified = self.meta.last_modified.timestamp_micros();
            return Ok(known.map_or_else(|| format!("time:{modified}:{}", self.meta.size), |tag| format!("tag:{tag}:{}", self.meta.size)));
        }
        let (file, handle) = (self.clone(), Handle::current());
        let hashed = tokio::task::spawn_blocking(move || {
            let mut reader = file.bytes(&handle, 0)?;
            let mut hash = Sha256::new();
            io::copy(&mut reader, &mut hash).map(|_| hex(&hash.finalize()))
        });
        let hashed = hashed.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        hashed.map(|hash| format!("sha256:{hash}")).map_err(|source| SourceError::Read { place: self.name(), source })
    }

    /// The rows of the file from `offset` on (bytes, or rows of a table), where line `line` begins. It blocks its thread.
    pub fn blocks(&self, handle: &Handle, offset: u64, line: u64) -> io::Result<Box<dyn Cut + Send>> {
        if self.meta.location.extension() == Some("parquet") {
            let store = Arc::clone(&self.at.store);
            return Ok(Box::new(Table::open(store, self.meta.location.clone(), self.meta.size, handle.clone(), offset)?));
        }
        Ok(Box::new(Blocks::new(self.reader(handle, offset)?, offset, line)))
    }

    /// The bytes of the file from `offset` on, decompressed if its name ends with `.gz`, `.zst` or `.zstd`; the offset then counts
    /// decompressed bytes, and what is before it is read past. The reader blocks its thread.
    pub fn reader(&self, handle: &Handle, offset: u64) -> io::Result<Box<dyn Read + Send>> {
        let mut decoder: Box<dyn Read + Send> = match self.meta.location.extension() {
            Some("gz") => Box::new(flate2::read::MultiGzDecoder::new(self.bytes(handle, 0)?)),
            Some("zst" | "zstd") => Box::new(zstd::stream::Decoder::new(self.bytes(handle, 0)?)?),
            _ => return self.bytes(handle, offset),
        };
        io::copy(&mut decoder.by_ref().take(offset), &mut io::sink())?;
        Ok(decoder)
    }

    fn bytes(&self, handle: &Handle, offset: u64) -> io::Result<Box<dyn Read + Send>> {
        if let Some(path) = &self.at.file {
            let mut file = std::fs::File::open(path)?;
            file.seek(io::SeekFrom::Start(offset))?;
            return Ok(Box::new(io::BufReader::with_capacity(PIECE_BYTES, file)));
        }
        let (sender, receiver) = mpsc::channel(WAITING_CHUNKS);
        let (store, location) = (Arc::clone(&self.at.store), self.meta.location.clone());
        let range = (offset > 0).then_some(GetRange::Offset(offset));
        handle.spawn(async move {
            let mut chunks = match store.get_opts(&location, GetOptions { range, ..GetOptions::default() }).await {
                Ok(found) => found.into_stream().map_err(io::Error::other).boxed(),
                Err(error) => futures::stream::once(async { Err(io::Error::other(error)) }).boxed(),
            };
            while let Some(chunk) = chunks.next().await {
                if sender.send(chunk).await.is_err() {
                    return;
                }
            }
        });
        Ok(Box::new(Download { receiver, current: Bytes::new() }))
    }
}

fn store_error(at: &Location, source: object_store::Error) -> SourceError {
    SourceError::Store { place: at.name.clone(), source }
}

/// Lower-case hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Chunks that a task downloads, as a reader for a thread.
struct Download {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.receiver.blocking_recv() {
                Some(chunk) => self.current = chunk?,
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn opened(path: &std::path::Path) -> Location {
        Location::of_file(path).unwrap()
    }

    async fn read(path: &std::path::Path, offset: u64) -> io::Result<String> {
        let file = SourceFile::find(&opened(path)).await.unwrap();
        let handle = Handle::current();
        tokio::task::spawn_blocking(move || {
            let mut text = String::new();
            file.reader(&handle, offset)?.read_to_string(&mut text).map(|_| text)
        })
        .await
        .unwrap()
    }

    #[tokio::test]
    async fn text_files_are_found_at_any_depth_in_the_order_of_their_names() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("b/c")).unwrap();
        for name in ["z.txt", "b/c/a.txt", "b/x.md", "a.txt", "b.TXT", "atxt"] {
            std::fs::write(folder.path().join(name), "x").unwrap();
        }
        let files = SourceFile::find_texts(&opened(folder.path())).await.unwrap();
        let names: Vec<_> = files.iter().map(|file| file.name().replace(folder.path().to_str().unwrap(), "")).collect();
        assert_eq!(names, ["/a.txt", "/b/c/a.txt", "/z.txt"]);
    }

    #[tokio::test]
    async fn a_folder_without_text_files_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let error = SourceFile::find_texts(&opened(folder.path())).await.unwrap_err();
        assert!(error.to_string().ends_with("has no file whose name ends with .txt, at any depth"), "{error}");
    }

    #[tokio::test]
    async fn compressed_files_are_read_as_what_they_hold() {
        let folder = tempfile::tempdir().unwrap();
        let gz = folder.path().join("a.jsonl.gz");
        // Two members: what `cat a.gz b.gz` makes.
        let mut bytes = Vec::new();
        for part in ["one\n", "two\n"] {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(part.as_bytes()).unwrap();
            bytes.extend(encoder.finish().unwrap());
        }
        std::fs::write(&gz, &bytes).unwrap();
        assert_eq!(read(&gz, 0).await.unwrap(), "one\ntwo\n");
        let zst = folder.path().join("a.jsonl.zst");
        std::fs::write(&zst, zstd::bulk::compress(b"three\n", 3).unwrap()).unwrap();
        assert_eq!((read(&zst, 0).await.unwrap(), read(&zst, 2).await.unwrap()), ("three\n".into(), "ree\n".into()));
        std::fs::write(&gz, &bytes[..bytes.len() - 9]).unwrap();
        assert!(read(&gz, 0).await.is_err());
    }

    #[tokio::test]
    async fn the_version_of_a_local_file_is_its_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        std::fs::write(&path, "x").unwrap();
        let version = SourceFile::find(&opened(&path)).await.unwrap().version().await.unwrap();
        assert_eq!(version, "sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881");
    }
}
