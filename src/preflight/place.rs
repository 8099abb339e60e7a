//! Places that a run names, told apart once by their spelling; pure, no I/O.

use object_store::path::Path;
use url::Url;

/// The object store that a bucket belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    /// S3 and S3-compatible services.
    S3,
    /// Google Cloud Storage.
    Gcs,
    /// Azure Blob Storage.
    Azure,
    /// Oracle Cloud object storage.
    Oci,
}

/// Where data, weights or outputs lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// An object, or a folder of objects, in a bucket.
    Bucket {
        /// Whose bucket it is.
        provider: Provider,
        /// Its name; of Azure the container's.
        bucket: String,
        /// The object's key or the folder's prefix.
        key: Path,
    },
    /// A file on a web server.
    Web(Url),
    /// A file or folder on a PVC, which is mounted.
    Claim {
        /// Name of the PVC.
        claim: String,
        /// Path on it.
        path: Path,
    },
    /// A file or folder of this machine.
    Local(String),
    /// A repository on the Hugging Face hub; of a dataset with the split as its last part.
    Hub(String),
    /// A file or folder that Databricks keeps, from `/Volumes` or `/databricks` on.
    Volume(String),
    /// `catalog.schema.table`.
    Table(String),
}

/// Why a text names no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// `s3://` and nothing.
    #[error("{0} names no bucket: write {0}bucket/path")]
    NoBucket(String),
    /// A path that leaves its folder, or has an empty part.
    #[error("the path of {0} has an empty part, `.` or `..`: write it without")]
    Path(String),
    /// A PVC's name that is none.
    #[error("{0} names no PVC: write pvc://claim/path")]
    Claim(String),
    /// A web address that cannot be read.
    #[error("{0} is not an address of a file: write https://host/path, without user name, password, query and fragment")]
    Web(String),
    /// Another scheme, or none.
    #[error(
        "{0} is not a place that is known: use s3://, gs://, az://, oci://, pvc://, https://, dbfs:/Volumes/, a dataset with its split or a table"
    )]
    Unknown(String),
}

impl Place {
    /// Tells by the spelling which kind of place `text` is.
    pub fn parse(text: &str) -> Result<Self, PlaceError> {
        if let Some((scheme, rest)) = text.split_once("://") {
            return match scheme {
                "s3" => bucket(Provider::S3, text, rest),
                "gs" => bucket(Provider::Gcs, text, rest),
                "az" => bucket(Provider::Azure, text, rest),
                "oci" => bucket(Provider::Oci, text, rest),
                "https" => web(text),
                "pvc" => claim(text, rest),
                "hf" if !rest.trim_matches('/').is_empty() => Ok(Self::Hub(rest.trim_matches('/').to_owned())),
                _ => Err(PlaceError::Unknown(shown(text))),
            };
        }
        let path = text.strip_prefix("dbfs:").unwrap_or(text);
        if ["/Volumes/", "/databricks/"].iter().any(|root| path.starts_with(root)) {
            relative(text, path)?;
            return Ok(Self::Volume(path.to_owned()));
        }
        if text.starts_with('/') {
            return Ok(Self::Local(text.to_owned()));
        }
        if text.contains(':') {
            return Err(PlaceError::Unknown(shown(text)));
        }
        if text.contains('/') {
            return Ok(Self::Hub(text.trim_matches('/').to_owned()));
        }
        let parts: Vec<_> = text.split('.').collect();
        if parts.len() == 3 && parts.iter().all(|part| !part.is_empty()) {
            return Ok(Self::Table(text.to_owned()));
        }
        Err(PlaceError::Unknown(shown(text)))
    }
}

fn bucket(provider: Provider, text: &str, rest: &str) -> Result<Place, PlaceError> {
    let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
    let is_bucket = !bucket.is_empty() && bucket.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)) && !bucket.contains("..");
    if !is_bucket {
        return Err(PlaceError::NoBucket(format!("{}://", text.split("://").next().unwrap_or_default())));
    }
    Ok(Place::Bucket { provider, bucket: bucket.to_owned(), key: relative(text, key)? })
}

fn claim(text: &str, rest: &str) -> Result<Place, PlaceError> {
    let (claim, path) = rest.split_once('/').unwrap_or((rest, ""));
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    if claim.is_empty() || !claim.chars().all(plain) || claim.contains("..") || claim == "." {
        return Err(PlaceError::Claim(text.to_owned()));
    }
    Ok(Place::Claim { claim: claim.to_owned(), path: relative(text, path)? })
}

fn web(text: &str) -> Result<Place, PlaceError> {
    let refused = || PlaceError::Web(shown(text));
    let url = Url::parse(text).map_err(|_| refused())?;
    let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
    if !plain || url.path().trim_matches('/').is_empty() {
        return Err(refused());
    }
    Ok(Place::Web(url))
}

/// A text without what could be a password or a signature.
fn shown(text: &str) -> String {
    let start = text.split(['?', '#']).next().unwrap_or_default();
    match (start.split_once("://"), start.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://{rest}"),
        _ => start.to_owned(),
    }
}

fn relative(text: &str, path: &str) -> Result<Path, PlaceError> {
    Path::parse(path).map_err(|_| PlaceError::Path(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_bucket(provider: Provider, bucket: &str, key: &str) -> Place {
        Place::Bucket { provider, bucket: bucket.into(), key: Path::parse(key).unwrap() }
    }

    #[test]
    fn each_spelling_is_one_kind_of_place() {
        assert_eq!(Place::parse("s3://data/a/train.jsonl"), Ok(in_bucket(Provider::S3, "data", "a/train.jsonl")));
        assert_eq!(Place::parse("s3://data"), Ok(in_bucket(Provider::S3, "data", "")));
        assert_eq!(Place::parse("s3://data/folder/"), Ok(in_bucket(Provider::S3, "data", "folder")));
        assert_eq!(Place::parse("gs://b/ü %20"), Ok(in_bucket(Provider::Gcs, "b", "ü %20")));
        assert_eq!(Place::parse("az://b/x"), Ok(in_bucket(Provider::Azure, "b", "x")));
        assert_eq!(Place::parse("oci://b/x"), Ok(in_bucket(Provider::Oci, "b", "x")));
        let claim = Place::Claim { claim: "c-1".into(), path: Path::parse("d/train.jsonl").unwrap() };
        assert_eq!(Place::parse("pvc://c-1/d/train.jsonl"), Ok(claim));
        assert_eq!(Place::parse("https://h.example/a.jsonl"), Ok(Place::Web(Url::parse("https://h.example/a.jsonl").unwrap())));
        assert_eq!(Place::parse("hf://entity/model"), Ok(Place::Hub("entity/model".into())));
        assert_eq!(Place::parse("mosaicml/dolly_hhrlhf/train"), Ok(Place::Hub("mosaicml/dolly_hhrlhf/train".into())));
        assert_eq!(Place::parse("dbfs:/Volumes/a/b/c/d.jsonl"), Ok(Place::Volume("/Volumes/a/b/c/d.jsonl".into())));
        assert_eq!(Place::parse("/Volumes/a/b/c"), Ok(Place::Volume("/Volumes/a/b/c".into())));
        assert_eq!(Place::parse("main.schema.table"), Ok(Place::Table("main.schema.table".into())));
        assert_eq!(Place::parse("/data/x"), Ok(Place::Local("/data/x".into())));
    }

    #[test]
    fn a_path_never_leaves_its_bucket_claim_or_volume() {
        for text in ["s3://b/../x", "s3://b/a//b", "pvc://c/../../secrets/s/key", "pvc://c/.", "dbfs:/Volumes/../x", "/Volumes/a/./b"] {
            assert_eq!(Place::parse(text), Err(PlaceError::Path(text.into())), "{text}");
        }
        for text in ["pvc://../secrets", "pvc:///x", "pvc://A/x", "pvc://./x"] {
            assert_eq!(Place::parse(text), Err(PlaceError::Claim(text.into())), "{text}");
        }
    }

    #[test]
    fn what_is_no_place_is_refused_without_repeating_a_password() {
        assert_eq!(Place::parse("s3://"), Err(PlaceError::NoBucket("s3://".into())));
        assert_eq!(Place::parse("s3://a@b/x"), Err(PlaceError::NoBucket("s3://".into())));
        for text in ["http://h/x", "file:///etc/passwd", "ftp://h/x", "word", "a.b", "a..b", "hf://", "C:/x"] {
            assert_eq!(Place::parse(text), Err(PlaceError::Unknown(text.into())), "{text}");
        }
        assert_eq!(Place::parse("https://user:hunter2@h/x"), Err(PlaceError::Web("https://h/x".into())));
        assert_eq!(Place::parse("ftp://user:hunter2@h/x"), Err(PlaceError::Unknown("ftp://h/x".into())));
        assert_eq!(Place::parse("https://h/x?X-Amz-Signature=abc"), Err(PlaceError::Web("https://h/x".into())));
        assert_eq!(Place::parse("https://h/"), Err(PlaceError::Web("https://h/".into())));
    }
}
