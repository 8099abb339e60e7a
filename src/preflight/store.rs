//! Opens places as object stores, with the credentials that the pod has: dials nothing yet.

use std::collections::BTreeMap;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::http::HttpBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use url::Url;

use super::connector::Connector;
use super::dial::Dialer;
use super::failure::{Asked, Failure};
use super::mounted::{self, Mounted};
use super::oci::{Bucket, Identity};
use super::place::{Place, Provider};
use super::plan::S3Endpoint;
use super::remote::Remote;
use super::workspace::Workspace;
use crate::api::secret_ref::SecretKind;
use crate::data::source::Location;

const CLAIMS: &str = "/var/run/finetune/claims";
const GOOGLE: &str = "https://storage.googleapis.com";
const AZURE_HOST: &str = "blob.core.windows.net";

/// A place that can be read, and written where the credential allows it.
#[derive(Debug, Clone)]
pub struct Opened {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// The object or folder in it.
    pub path: Path,
    /// What an error of it is explained with.
    pub asked: Asked,
    /// Where it lies on this machine, if it does.
    pub file: Option<PathBuf>,
}

impl Opened {
    /// The same for the data path, which explains nothing.
    #[must_use]
    pub fn location(&self) -> Location {
        let name = self.asked.place.trim_end_matches('/').to_owned();
        Location { store: Arc::clone(&self.store), path: self.path.clone(), name, file: self.file.clone() }
    }

    /// The same store at a path below.
    #[must_use]
    pub fn below(&self, path: &str) -> Self {
        let joined = path.split('/').filter(|part| !part.is_empty()).fold(self.path.clone(), Path::join);
        let place = format!("{}/{path}", self.asked.place.trim_end_matches('/'));
        let file = self.file.as_ref().map(|file| file.join(path));
        Self { store: Arc::clone(&self.store), path: joined, asked: Asked { place, ..self.asked.clone() }, file }
    }
}

/// Opens places for one run.
#[derive(Debug, Clone)]
pub struct Stores {
    dialer: Dialer,
    secrets: Mounted,
    s3: Option<S3Endpoint>,
    environment: BTreeMap<String, String>,
}

impl Stores {
    /// Credentials come from the Secrets, else from the pod's identity, which the environment describes.
    #[must_use]
    pub fn new(dialer: Dialer, secrets: Mounted, s3: Option<S3Endpoint>, environment: BTreeMap<String, String>) -> Self {
        Self { dialer, secrets, s3, environment }
    }

    /// The kind of Secret that a place is opened with.
    #[must_use]
    pub fn secret_kind(place: &Place) -> Option<SecretKind> {
        match place {
            Place::Bucket { provider: Provider::S3, .. } => Some(SecretKind::S3),
            Place::Bucket { provider: Provider::Gcs, .. } => Some(SecretKind::Gcp),
            Place::Bucket { provider: Provider::Azure, .. } => Some(SecretKind::Azure),
            Place::Bucket { provider: Provider::Oci, .. } => Some(SecretKind::Oci),
            Place::Hub(_) => Some(SecretKind::Hf),
            Place::Volume(_) | Place::Table(_) => Some(SecretKind::Databricks),
            Place::Web(_) | Place::Claim { .. } | Place::Local(_) => None,
        }
    }

    /// Opens a place; `text` is its spelling in the run.
    pub fn open(&self, text: &str) -> Result<Opened, Failure> {
        let place = Place::parse(text).map_err(|error| Failure::user("PlaceInvalid", error.to_string()))?;
        let asked = |bucket: &str, keys| {
            let secret = Self::secret_kind(&place).and_then(|kind| self.secrets.of(kind)).filter(|secret| mounted::signs_in(secret));
            let secret = secret.map(|secret| secret.name.clone());
            Asked { place: text.to_owned(), bucket: bucket.to_owned(), secret, keys }
        };
        let file = match &place {
            Place::Claim { claim, path } => Some(FilePath::new(CLAIMS).join(claim).join(path.as_ref())),
            Place::Local(path) => Some(PathBuf::from(path)),
            _ => None,
        };
        let (store, path, asked): (Arc<dyn ObjectStore>, _, _) = match &place {
            Place::Bucket { provider, bucket, key } => {
                let (store, keys): (object_store::Result<Arc<dyn ObjectStore>>, _) = match provider {
                    Provider::S3 => (self.s3(bucket, self.s3_endpoint(text)?), "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
                    Provider::Gcs => (self.gcs(bucket), "credentials"),
                    Provider::Azure => (self.azure(bucket), "AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN"),
                    Provider::Oci => (self.oci(bucket), "config and key_file"),
                };
                let asked = asked(bucket, keys);
                (store.map_err(|_| unusable(&asked))?, key.clone(), asked)
            }
            Place::Web(url) => {
                let path = Path::from_url_path(url.path()).map_err(|error| Failure::user("PlaceInvalid", error.to_string()))?;
                let asked = asked(url.host_str().unwrap_or_default(), "");
                (web(url, &self.dialer).map_err(|_| unusable(&asked))?, path, asked)
            }
            Place::Claim { claim, path } => {
                let root = format!("{CLAIMS}/{claim}");
                (folder(&root).ok_or_else(|| unmounted(text))?, path.clone(), asked(claim, ""))
            }
            Place::Local(path) if self.dialer.allows_local() => {
                let path = Path::parse(path).map_err(|error| Failure::user("PlaceInvalid", error.to_string()))?;
                (folder("/").ok_or_else(|| unmounted(text))?, path, asked("this machine", ""))
            }
            Place::Local(_) => {
                return Err(Failure::user(
                    "UnsupportedPlace",
                    format!("{text} is a path of one machine, which a pod cannot read: use s3://, gs://, az:// or pvc://"),
                ));
            }
            Place::Volume(path) if !path.starts_with("/Volumes/") => return Err(unsupported(text)),
            Place::Volume(path) => {
                let asked = asked(path.split('/').nth(4).unwrap_or_default(), "DATABRICKS_HOST and DATABRICKS_TOKEN");
                let workspace = Workspace::of(&self.secrets).ok_or_else(|| unusable(&asked))?;
                let path = Path::parse(path).map_err(|error| Failure::user("PlaceInvalid", error.to_string()))?;
                (Arc::new(Remote::new(self.dialer.clone(), workspace)), path, asked)
            }
            Place::Hub(_) | Place::Table(_) => return Err(unsupported(text)),
        };
        Ok(Opened { store, path, asked, file })
    }

    /// Where the run's S3 is, if it says so. The builder would panic at an address that it cannot read.
    fn s3_endpoint(&self, text: &str) -> Result<Option<String>, Failure> {
        let Some(address) = self.s3.as_ref().and_then(|s3| s3.endpoint_url.as_deref()) else { return Ok(None) };
        let url = Url::parse(address).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let url = url.ok_or_else(|| Failure::user("AddressInvalid", format!("cannot open {text}: spec.s3.endpointUrl is no address of a server")))?;
        // What it is in the usual spelling, so that every later reader of it sees the same host.
        self.dialer.check(url.as_str()).map_err(|denied| Failure::user("AddressDenied", format!("cannot open {text}: {denied}")))?;
        Ok(Some(url.as_str().trim_end_matches('/').to_owned()))
    }

    fn s3(&self, bucket: &str, endpoint: Option<String>) -> object_store::Result<Arc<dyn ObjectStore>> {
        let mut builder = AmazonS3Builder::new().with_bucket_name(bucket).with_allow_http(true).with_retry(self.dialer.retry());
        let mut region = self.s3.as_ref().and_then(|s3| s3.region.clone());
        let secret = self.secrets.of(SecretKind::S3);
        if let Some(secret) = secret {
            let mut keys = mounted::all_profiles(secret).remove(&mounted::profile_name(secret)).unwrap_or_default();
            let mut key = |name: &str| mounted::value(secret, name).or_else(|| keys.remove(&name.to_ascii_lowercase()));
            // Empty ones are refused by the store, and not replaced by an identity that nobody asked for.
            builder = builder
                .with_access_key_id(key("AWS_ACCESS_KEY_ID").unwrap_or_default())
                .with_secret_access_key(key("AWS_SECRET_ACCESS_KEY").unwrap_or_default());
            if let Some(token) = key("AWS_SESSION_TOKEN") {
                builder = builder.with_token(token);
            }
            region = region.or_else(|| keys.remove("region"));
        } else {
            for name in S3_IDENTITY {
                if let (Some(value), Ok(key)) = (self.environment.get(name), name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>()) {
                    builder = builder.with_config(key, value);
                }
            }
        }
        let region = region.or_else(|| self.environment.get("AWS_REGION").cloned());
        // The region becomes part of the host's name.
        let is_region = |text: &String| text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        let region = region.filter(is_region).unwrap_or_else(|| DEFAULT_REGION.to_owned());
        let host = endpoint.as_deref().and_then(|endpoint| Url::parse(endpoint).ok()).and_then(|url| url.host_str().map(str::to_owned));
        let connector = match secret {
            Some(_) => Connector::with_secret(&self.dialer),
            None => Connector::with_identity(&self.dialer, host.unwrap_or_else(|| format!("s3.{region}.amazonaws.com"))),
        };
        builder = builder.with_region(region);
        if let Some(endpoint) = endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        Ok(Arc::new(builder.with_http_connector(connector).build()?))
    }

    fn gcs(&self, bucket: &str) -> object_store::Result<Arc<dyn ObjectStore>> {
        // A key file could name another server than training will speak to.
        let mut builder = GoogleCloudStorageBuilder::new().with_base_url(GOOGLE).with_bucket_name(bucket).with_retry(self.dialer.retry());
        if let Some(secret) = self.secrets.of(SecretKind::Gcp) {
            let credentials = mounted::value(secret, "credentials").unwrap_or_default();
            let is_key = serde_json::from_str::<serde_json::Value>(&credentials).is_ok_and(|value| value["type"] != "authorized_user");
            builder = if is_key {
                builder.with_service_account_key(credentials)
            } else {
                builder.with_config(GoogleConfigKey::ApplicationCredentials, mounted::file(secret, "credentials").to_string_lossy())
            };
            return Ok(Arc::new(builder.with_http_connector(Connector::with_secret(&self.dialer)).build()?));
        }
        let connector = Connector::with_identity(&self.dialer, GOOGLE.trim_start_matches("https://").to_owned());
        Ok(Arc::new(builder.with_http_connector(connector).build()?))
    }

    fn azure(&self, container: &str) -> object_store::Result<Arc<dyn ObjectStore>> {
        let mut builder = MicrosoftAzureBuilder::new().with_container_name(container).with_retry(self.dialer.retry());
        let value = |key: &str| self.secrets.value(SecretKind::Azure, key);
        let account = value("AZURE_STORAGE_ACCOUNT_NAME").or_else(|| self.environment.get("AZURE_STORAGE_ACCOUNT_NAME").cloned());
        let account = account.unwrap_or_default();
        builder = builder.with_account(&account);
        let signed = match (value("AZURE_STORAGE_ACCOUNT_KEY"), value("AZURE_STORAGE_SAS_TOKEN")) {
            (Some(key), _) => Some(builder.clone().with_access_key(key)),
            (None, Some(sas)) => Some(builder.clone().with_config(AzureConfigKey::SasKey, sas.trim_start_matches('?'))),
            (None, None) => None,
        };
        if let Some(builder) = signed {
            return Ok(Arc::new(builder.with_http_connector(Connector::with_secret(&self.dialer)).build()?));
        }
        for name in AZURE_IDENTITY {
            if let (Some(value), Ok(key)) = (self.environment.get(name), name.to_ascii_lowercase().parse::<AzureConfigKey>()) {
                // The webhook ends the authority with a slash, and so the builder begins the path.
                builder = builder.with_config(key, value.trim_end_matches('/'));
            }
        }
        let connector = Connector::with_identity(&self.dialer, format!("{account}.{AZURE_HOST}"));
        Ok(Arc::new(builder.with_http_connector(connector).build()?))
    }

    fn oci(&self, bucket: &str) -> object_store::Result<Arc<dyn ObjectStore>> {
        let unusable = || object_store::Error::Generic { store: "oci", source: "no identity".into() };
        let identity = self.secrets.of(SecretKind::Oci).and_then(|secret| Identity::of(secret).ok()).ok_or_else(unusable)?;
        Ok(Arc::new(Remote::new(self.dialer.clone(), Bucket::new(identity, bucket))))
    }
}

const DEFAULT_REGION: &str = "us-east-1";
/// What gives a pod an identity at AWS. Everything else that the environment could say is decided by the run.
const S3_IDENTITY: [&str; 10] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_ENDPOINT_URL_STS",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
];
/// What gives a pod an identity at Azure.
const AZURE_IDENTITY: [&str; 4] = ["AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_FEDERATED_TOKEN_FILE", "AZURE_AUTHORITY_HOST"];

fn web(url: &Url, dialer: &Dialer) -> object_store::Result<Arc<dyn ObjectStore>> {
    let builder =
        HttpBuilder::new().with_url(&url[..url::Position::BeforePath]).with_retry(dialer.retry()).with_http_connector(Connector::with_secret(dialer));
    Ok(Arc::new(builder.build()?))
}

fn folder(root: &str) -> Option<Arc<dyn ObjectStore>> {
    let store = LocalFileSystem::new_with_prefix(FilePath::new(root)).ok()?;
    Some(Arc::new(store))
}

fn unsupported(text: &str) -> Failure {
    Failure::user("UnsupportedPlace", format!("{text} is of a kind that cannot be read here yet: use s3://, gs://, az://, https:// or pvc://"))
}

fn unmounted(text: &str) -> Failure {
    Failure::infrastructure("VolumeMissing", format!("the volume of {text} is not mounted in this pod"))
}

/// The store's builder says why, and may quote the credential.
fn unusable(asked: &Asked) -> Failure {
    let Asked { place, keys, .. } = asked;
    match &asked.secret {
        Some(secret) => {
            Failure::credential("CredentialMalformed", format!("cannot open {place}: {keys} in Secret {secret} cannot be used; check it"))
        }
        None => Failure::credential("NoCredentials", format!("cannot open {place}: the run names no Secret for it; name one in spec.secrets")),
    }
}
