//! Opens the object stores and folders that a run names, with the run's own credentials; dials only what may be dialled.

use std::collections::BTreeMap;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::client::{ClientOptions, HttpClient, HttpConnector};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{BackoffConfig, ObjectStore, RetryConfig};
use url::Url;

use super::dial::{ClientError, DialError, DialPolicy};
use super::place::{Place, StoreKind};

/// What is needed to open places: credentials, endpoints and the rules for dialling.
#[derive(Debug, Clone)]
pub struct Access {
    /// Variables of the environment and of the Secrets, by name. Never printed.
    pub variables: Variables,
    /// An S3-compatible endpoint instead of AWS's own.
    pub s3_endpoint: Option<String>,
    /// Region that S3 requests are signed for.
    pub s3_region: Option<String>,
    /// What may be dialled.
    pub policy: DialPolicy,
    /// The client for URLs that users wrote.
    pub http: reqwest::Client,
}

/// Variables by name, whose values never show.
#[derive(Clone, Default)]
pub struct Variables(BTreeMap<String, String>);

impl std::fmt::Debug for Variables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Variables {
    /// The variables of this process.
    #[must_use]
    pub fn of_this_process() -> Self {
        let text = |value: std::ffi::OsString| value.into_string().ok();
        Self(std::env::vars_os().filter_map(|(name, value)| text(name).zip(text(value))).collect())
    }

    /// The value of a variable that is set and not empty.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Sets a variable.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.insert(name.into(), value.into());
    }
}

/// Why a place cannot be opened. Nothing was asked of it yet.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no credential for this kind of store.
    #[error("there are no credentials for {0}:// paths: name a Secret of kind {1} in spec.secrets")]
    NoCredentials(&'static str, &'static str),
    /// A credential is there, but cannot be used.
    #[error("{0}")]
    Credentials(String),
    /// The endpoint may not be dialled.
    #[error("the endpoint cannot be used: {0}")]
    Endpoint(#[from] DialError),
    /// The settings of the store contradict each other.
    #[error("the store cannot be opened: {0}")]
    Store(#[from] object_store::Error),
    /// The path cannot be a key.
    #[error("the path cannot be an object name: {0}")]
    Path(#[from] object_store::path::Error),
    /// The HTTP client cannot be made.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// This kind of place has no objects.
    #[error("{0} cannot be opened as a folder of objects")]
    Kind(String),
}

/// A place in an open store.
#[derive(Debug, Clone)]
pub struct Opened {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// The key, or the prefix.
    pub path: Path,
    /// The place as the run names it.
    pub place: Place,
}

impl Opened {
    /// A place below this one.
    #[must_use]
    pub fn join(&self, name: &str) -> Self {
        let path = name.split('/').fold(self.path.clone(), |path, part| path.join(part));
        Self { store: Arc::clone(&self.store), path, place: self.place.join(name) }
    }
}

impl Access {
    /// Access with the variables of this process and the checked client.
    pub fn new(variables: Variables, policy: DialPolicy) -> Result<Self, ClientError> {
        let http = super::dial::client(&policy)?;
        let s3_endpoint = ["S3_ENDPOINT_URL", "AWS_ENDPOINT_URL"].into_iter().find_map(|name| variables.get(name).map(str::to_owned));
        let s3_region = ["AWS_REGION", "AWS_DEFAULT_REGION"].into_iter().find_map(|name| variables.get(name).map(str::to_owned));
        Ok(Self { variables, s3_endpoint, s3_region, policy, http })
    }

    /// Opens a place without asking it anything yet.
    pub fn open(&self, place: &Place) -> Result<Opened, OpenError> {
        let (store, path): (Arc<dyn ObjectStore>, Path) = match place {
            Place::File(path) => (Arc::new(LocalFileSystem::new()), Path::from_absolute_path(absolute(path))?),
            Place::Bucket { store, bucket, key } => {
                let opened: Arc<dyn ObjectStore> = match store {
                    StoreKind::S3 => Arc::new(self.s3(bucket)?),
                    StoreKind::Gs => Arc::new(self.gs(bucket)?),
                    StoreKind::Az => Arc::new(self.az(bucket)?),
                    StoreKind::Oci => return Err(OpenError::Kind(place.to_string())),
                };
                (opened, Path::parse(key)?)
            }
            _ => return Err(OpenError::Kind(place.to_string())),
        };
        Ok(Opened { store, path, place: place.clone() })
    }

    fn s3(&self, bucket: &str) -> Result<object_store::aws::AmazonS3, OpenError> {
        let region = self.s3_region.as_deref().unwrap_or("us-east-1");
        let mut builder = AmazonS3Builder::new().with_bucket_name(bucket).with_region(region).with_retry(retry());
        let has_endpoint = self.s3_endpoint.is_some();
        if let Some(endpoint) = &self.s3_endpoint {
            let url = Url::parse(endpoint).map_err(|_| DialError::Host)?;
            self.policy.check(&url)?;
            builder = builder
                .with_endpoint(endpoint.trim_end_matches('/'))
                .with_allow_http(url.scheme() == "http")
                .with_http_connector(CheckedConnector(self.http.clone()));
        }
        match self.s3_credentials()? {
            Some(S3Credentials { id, secret, token }) => {
                builder = builder.with_access_key_id(id).with_secret_access_key(secret);
                if let Some(token) = token {
                    builder = builder.with_token(token);
                }
            }
            // A web identity, a container's or a node's own role: the store finds them by itself.
            None => {
                let chain = [
                    (AmazonS3ConfigKey::WebIdentityTokenFile, "AWS_WEB_IDENTITY_TOKEN_FILE"),
                    (AmazonS3ConfigKey::RoleArn, "AWS_ROLE_ARN"),
                    (AmazonS3ConfigKey::RoleSessionName, "AWS_ROLE_SESSION_NAME"),
                    (AmazonS3ConfigKey::ContainerCredentialsRelativeUri, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"),
                    (AmazonS3ConfigKey::ContainerCredentialsFullUri, "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
                    (AmazonS3ConfigKey::ContainerAuthorizationTokenFile, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"),
                ];
                let found = chain.into_iter().filter_map(|(key, name)| Some((key, self.variables.get(name)?)));
                let mut any = false;
                for (key, value) in found {
                    builder = builder.with_config(key, value);
                    any = true;
                }
                if has_endpoint && !any {
                    return Err(OpenError::NoCredentials("s3", "s3"));
                }
            }
        }
        Ok(builder.build()?)
    }

    fn s3_credentials(&self) -> Result<Option<S3Credentials>, OpenError> {
        let get = |name| self.variables.get(name).map(str::to_owned);
        if let (Some(id), Some(secret)) = (get("AWS_ACCESS_KEY_ID"), get("AWS_SECRET_ACCESS_KEY")) {
            return Ok(Some(S3Credentials { id, secret, token: get("AWS_SESSION_TOKEN") }));
        }
        let Some(file) = get("AWS_SHARED_CREDENTIALS_FILE") else { return Ok(None) };
        // The volume of a Secret that is not there is an empty folder.
        let Ok(text) = std::fs::read_to_string(&file) else { return Ok(None) };
        read_profile(&text, self.variables.get("AWS_PROFILE")).map(Some).map_err(OpenError::Credentials)
    }

    fn gs(&self, bucket: &str) -> Result<object_store::gcp::GoogleCloudStorage, OpenError> {
        let mut builder = GoogleCloudStorageBuilder::new().with_bucket_name(bucket).with_retry(retry());
        if let Some(file) = self.variables.get("GOOGLE_APPLICATION_CREDENTIALS").filter(|file| FilePath::new(file).exists()) {
            builder = builder.with_application_credentials(file);
        }
        Ok(builder.build()?)
    }

    fn az(&self, container: &str) -> Result<object_store::azure::MicrosoftAzure, OpenError> {
        let account = self.variables.get("AZURE_STORAGE_ACCOUNT_NAME").ok_or(OpenError::NoCredentials("az", "azure"))?;
        let mut builder = MicrosoftAzureBuilder::new().with_account(account).with_container_name(container).with_retry(retry());
        if let Some(key) = self.variables.get("AZURE_STORAGE_ACCOUNT_KEY") {
            builder = builder.with_access_key(key);
        } else if let Some(token) = self.variables.get("AZURE_STORAGE_SAS_TOKEN") {
            let pairs: Vec<_> = url::form_urlencoded::parse(token.trim_start_matches('?').as_bytes()).into_owned().collect();
            builder = builder.with_sas_authorization(pairs);
        }
        Ok(builder.build()?)
    }
}

struct S3Credentials {
    id: String,
    secret: String,
    token: Option<String>,
}

/// The profile that is asked for, else `default`, else the only one.
fn read_profile(text: &str, wanted: Option<&str>) -> Result<S3Credentials, String> {
    let mut profiles: Vec<(&str, BTreeMap<&str, &str>)> = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            profiles.push((name.trim(), BTreeMap::new()));
        } else if let (Some((_, values)), Some((key, value))) = (profiles.last_mut(), line.split_once('=')) {
            if !line.starts_with(['#', ';']) {
                values.insert(key.trim(), value.trim());
            }
        }
    }
    let by_name = |name: &str| profiles.iter().find(|(profile, _)| *profile == name);
    let found = match wanted {
        Some(name) => by_name(name).ok_or_else(|| format!("the credentials file has no profile {name:?}"))?,
        None => by_name("default")
            .or(if profiles.len() == 1 { profiles.first() } else { None })
            .ok_or("the credentials file has no profile default: name one with profile")?,
    };
    let get = |key: &str| found.1.get(key).filter(|value| !value.is_empty()).map(|value| (*value).to_owned());
    let (Some(id), Some(secret)) = (get("aws_access_key_id"), get("aws_secret_access_key")) else {
        return Err(format!("profile {:?} of the credentials file has no aws_access_key_id or no aws_secret_access_key", found.0));
    };
    Ok(S3Credentials { id, secret, token: get("aws_session_token") })
}

fn retry() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig { init_backoff: Duration::from_millis(200), max_backoff: Duration::from_secs(5), base: 2.0 },
        max_retries: 4,
        retry_timeout: Duration::from_secs(30),
    }
}

fn absolute(path: &FilePath) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Gives stores the client that checks what it dials.
#[derive(Debug)]
struct CheckedConnector(reqwest::Client);

impl HttpConnector for CheckedConnector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.0.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# comment\n[default]\naws_access_key_id = A\naws_secret_access_key=S=1\n[other]\naws_access_key_id=B\naws_secret_access_key=T\naws_session_token=K\n[half]\naws_access_key_id=C\n";

    fn profile(text: &str, wanted: Option<&str>) -> Result<(String, String, Option<String>), String> {
        read_profile(text, wanted).map(|found| (found.id, found.secret, found.token))
    }

    #[test]
    fn a_profile_is_found_by_name_by_default_or_alone() {
        assert_eq!(profile(FILE, None), Ok(("A".into(), "S=1".into(), None)));
        assert_eq!(profile(FILE, Some("other")), Ok(("B".into(), "T".into(), Some("K".into()))));
        assert_eq!(profile("[x]\naws_access_key_id=A\naws_secret_access_key=S", None), Ok(("A".into(), "S".into(), None)));
    }

    #[test]
    fn a_profile_that_is_not_there_or_not_whole_is_named_without_values() {
        assert_eq!(profile(FILE, Some("none")).unwrap_err(), "the credentials file has no profile \"none\"");
        assert!(profile(FILE, Some("half")).unwrap_err().starts_with("profile \"half\""));
        assert!(profile("[a]\n[b]\n", None).unwrap_err().contains("no profile default"));
    }

    #[test]
    fn an_endpoint_without_credentials_says_which_secret_to_name() {
        let mut variables = Variables::default();
        variables.set("AWS_ENDPOINT_URL", "http://s3.finetune:9000");
        let access = access(variables);
        let error = access.open(&Place::parse("s3://b/k").unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "there are no credentials for s3:// paths: name a Secret of kind s3 in spec.secrets");
    }

    #[test]
    fn an_endpoint_that_may_not_be_dialled_is_refused() {
        let mut variables = Variables::default();
        variables.set("AWS_ENDPOINT_URL", "http://169.254.169.254");
        variables.set("AWS_ACCESS_KEY_ID", "a");
        variables.set("AWS_SECRET_ACCESS_KEY", "s");
        let error = access(variables).open(&Place::parse("s3://b/k").unwrap()).unwrap_err();
        assert!(matches!(error, OpenError::Endpoint(DialError::Denied(_))), "{error}");
    }

    #[test]
    fn variables_never_show_their_values() {
        let mut variables = Variables::default();
        variables.set("NAME", "value");
        assert_eq!(format!("{variables:?}"), "{\"NAME\"}");
    }

    fn access(variables: Variables) -> Access {
        let _ = rustls::crypto::ring::default_provider().install_default();
        Access::new(variables, DialPolicy::default()).unwrap()
    }
}
