//! What a path of a run means: which kind of place, and where in it; pure.

/// A place that data, weights or outputs lie in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A key, or a prefix, in a bucket.
    Bucket {
        /// Which kind of store.
        store: StoreKind,
        /// The bucket or container.
        bucket: String,
        /// Key or prefix, without a slash at either end.
        key: String,
    },
    /// A file or folder that this program can open.
    File(std::path::PathBuf),
    /// A dataset or model of the Hugging Face hub: `name` or `entity/name`, and what follows it.
    Hub {
        /// Repository, with its entity if it has one.
        repository: String,
        /// The split of a dataset; empty for a model.
        split: String,
    },
    /// A URL that is read as it is.
    Url(url::Url),
    /// A Unity Catalog volume: the path from `/Volumes` on.
    Volume(String),
    /// A table `catalog.schema.table`.
    Table(String),
}

/// Kinds of object stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoreKind {
    /// `s3://`
    S3,
    /// `gs://`
    Gs,
    /// `az://`
    Az,
    /// `oci://`
    Oci,
}

/// Where the claims that a run's paths name are mounted.
pub const CLAIMS: &str = "/var/run/finetune/claims";

/// Why a path means no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// The scheme is not one of ours.
    #[error("{0}:// is not a place that can be read: use s3://, gs://, az://, oci://, https://, pvc://, dbfs:/Volumes/ or a Hugging Face name")]
    Scheme(String),
    /// A bucket, key or claim is missing or not allowed.
    #[error("{0}")]
    Shape(&'static str),
}

impl Place {
    /// What a path of a run means. A bare path on this machine is only for [`Place::local_or_remote`].
    pub fn parse(path: &str) -> Result<Self, PlaceError> {
        if let Some((scheme, rest)) = path.split_once("://") {
            let store = match scheme {
                "s3" => StoreKind::S3,
                "gs" => StoreKind::Gs,
                "az" => StoreKind::Az,
                "oci" => StoreKind::Oci,
                "pvc" => return claim(rest),
                "hf" => return Ok(Self::Hub { repository: rest.trim_matches('/').to_owned(), split: String::new() }),
                "http" | "https" => {
                    return url::Url::parse(path).map(Self::Url).map_err(|_| PlaceError::Shape("the URL cannot be read"));
                }
                other => return Err(PlaceError::Scheme(other.to_owned())),
            };
            let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
            if bucket.is_empty() || bucket.contains("..") {
                return Err(PlaceError::Shape("the path has no bucket: write it like s3://bucket/key"));
            }
            return Ok(Self::Bucket { store, bucket: bucket.to_owned(), key: clean(key)? });
        }
        let volume = path.strip_prefix("dbfs:").unwrap_or(path);
        if volume.starts_with("/Volumes/") {
            clean(volume)?;
            return Ok(Self::Volume(volume.trim_end_matches('/').to_owned()));
        }
        if path.starts_with('/') || path.starts_with("dbfs:") {
            return Err(PlaceError::Shape("the path is not below dbfs:/Volumes/"));
        }
        let dots: Vec<_> = path.split('.').collect();
        if !path.contains('/') && dots.len() == 3 && dots.iter().all(|part| !part.is_empty()) {
            return Ok(Self::Table(path.to_owned()));
        }
        let parts: Vec<_> = path.split('/').collect();
        if !(2..=3).contains(&parts.len()) || parts.iter().any(|part| part.is_empty() || *part == "." || *part == "..") {
            return Err(PlaceError::Shape("the path is none of s3://…, gs://…, az://…, oci://…, https://…, pvc://…, dbfs:/Volumes/…, catalog.schema.table, or entity/dataset/split"));
        }
        let (repository, split) = path.rsplit_once('/').unwrap_or((path, ""));
        Ok(Self::Hub { repository: repository.to_owned(), split: split.to_owned() })
    }

    /// The same for a command line, where a path without a scheme is a file on this machine.
    pub fn local_or_remote(path: &str) -> Result<Self, PlaceError> {
        if path.contains("://") || path.starts_with("dbfs:") { Self::parse(path) } else { Ok(Self::File(path.into())) }
    }

    /// A place below this one.
    #[must_use]
    pub fn join(&self, name: &str) -> Self {
        match self {
            Self::Bucket { store, bucket, key } => {
                let key = if key.is_empty() { name.to_owned() } else { format!("{key}/{name}") };
                Self::Bucket { store: *store, bucket: bucket.clone(), key }
            }
            Self::File(path) => Self::File(path.join(name)),
            Self::Volume(path) => Self::Volume(format!("{path}/{name}")),
            other => other.clone(),
        }
    }
}

impl StoreKind {
    /// The scheme of its paths.
    #[must_use]
    pub fn scheme(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Gs => "gs",
            Self::Az => "az",
            Self::Oci => "oci",
        }
    }
}

fn claim(rest: &str) -> Result<Place, PlaceError> {
    let (claim, path) = rest.split_once('/').unwrap_or((rest, ""));
    let named = !claim.is_empty() && claim.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.'));
    if !named || claim.starts_with('.') {
        return Err(PlaceError::Shape("the path names no claim: write it like pvc://claim/path"));
    }
    let path = clean(path)?;
    Ok(Place::File(std::path::Path::new(CLAIMS).join(claim).join(path)))
}

/// Keys are joined with names of ours, so none may lead out of its folder.
fn clean(key: &str) -> Result<String, PlaceError> {
    let key = key.trim_matches('/');
    if key.split('/').any(|part| part == "." || part == "..") {
        return Err(PlaceError::Shape("the path has a part that is . or .., which no object name may have"));
    }
    if key.contains("//") {
        return Err(PlaceError::Shape("the path has two slashes next to each other"));
    }
    Ok(key.to_owned())
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bucket { store, bucket, key } => write!(f, "{}://{bucket}/{key}", store.scheme()),
            Self::File(path) => match path.strip_prefix(CLAIMS) {
                Ok(path) => write!(f, "pvc://{}", path.display()),
                Err(_) => write!(f, "{}", path.display()),
            },
            Self::Hub { repository, split } if split.is_empty() => write!(f, "hf://{repository}"),
            Self::Hub { repository, split } => write!(f, "{repository}/{split}"),
            Self::Url(url) => write!(f, "{url}"),
            Self::Volume(path) => write!(f, "dbfs:{path}"),
            Self::Table(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_path_is_told_apart_and_written_back() {
        let bucket = |store, key: &str| Place::Bucket { store, bucket: "b".into(), key: key.into() };
        for (path, place, shown) in [
            ("s3://b/a/c.jsonl", bucket(StoreKind::S3, "a/c.jsonl"), "s3://b/a/c.jsonl"),
            ("s3://b/a/", bucket(StoreKind::S3, "a"), "s3://b/a"),
            ("gs://b", bucket(StoreKind::Gs, ""), "gs://b/"),
            ("az://b/a", bucket(StoreKind::Az, "a"), "az://b/a"),
            ("oci://b/a", bucket(StoreKind::Oci, "a"), "oci://b/a"),
            ("pvc://data/a.jsonl", Place::File("/var/run/finetune/claims/data/a.jsonl".into()), "pvc://data/a.jsonl"),
            ("dbfs:/Volumes/a/b/c/d.jsonl", Place::Volume("/Volumes/a/b/c/d.jsonl".into()), "dbfs:/Volumes/a/b/c/d.jsonl"),
            ("/Volumes/a/b/c", Place::Volume("/Volumes/a/b/c".into()), "dbfs:/Volumes/a/b/c"),
            ("main.data.rows", Place::Table("main.data.rows".into()), "main.data.rows"),
            ("mosaicml/dolly_hhrlhf/train", Place::Hub { repository: "mosaicml/dolly_hhrlhf".into(), split: "train".into() }, "mosaicml/dolly_hhrlhf/train"),
            ("squad/train", Place::Hub { repository: "squad".into(), split: "train".into() }, "squad/train"),
            ("hf://meta-llama/Llama-2-7b", Place::Hub { repository: "meta-llama/Llama-2-7b".into(), split: String::new() }, "hf://meta-llama/Llama-2-7b"),
        ] {
            assert_eq!(Place::parse(path).as_ref(), Ok(&place), "{path}");
            assert_eq!(place.to_string(), shown);
        }
    }

    #[test]
    fn what_leads_nowhere_or_elsewhere_is_refused() {
        for path in ["s3://", "s3:///key", "s3://b/../c", "s3://b/a/./c", "s3://b/a//c", "ftp://h/x", "pvc://../etc", "pvc:///x", "pvc://c/../../etc", "/etc/passwd", "dbfs:/tmp/x", "one", "a/b/c/d", "a/../b", ""] {
            assert!(Place::parse(path).is_err(), "{path}");
        }
    }

    #[test]
    fn a_bare_path_is_a_file_only_on_a_command_line() {
        assert_eq!(Place::local_or_remote("a/b.jsonl"), Ok(Place::File("a/b.jsonl".into())));
        assert_eq!(Place::local_or_remote("/a/b"), Ok(Place::File("/a/b".into())));
        assert!(matches!(Place::local_or_remote("s3://b/a"), Ok(Place::Bucket { .. })));
    }

    #[test]
    fn joining_stays_below() {
        assert_eq!(Place::parse("s3://b").unwrap().join("x").to_string(), "s3://b/x");
        assert_eq!(Place::parse("s3://b/a").unwrap().join("x").to_string(), "s3://b/a/x");
    }
}
