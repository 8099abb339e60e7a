//! The HTTP client of preflight: every user's address is checked where it is dialled, redirects are not followed,
//! answers are bounded, and what is transient is asked again.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use object_store::client::{HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService};
use object_store::{BackoffConfig, ClientOptions, RetryConfig};
use reqwest::Method;
use serde_json::Value;
use url::Url;

use super::address::{CheckingResolver, Denied, Policy};

const CONNECT: Duration = Duration::from_secs(5);
/// A metadata service is near, or there is none.
const CONNECT_TO_IDENTITY: Duration = Duration::from_secs(2);
const SILENCE: Duration = Duration::from_secs(30);
const ANSWER: Duration = Duration::from_secs(20);
const DOWNLOAD: Duration = Duration::from_secs(60);
const TRIES: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// After this a store is not asked again: a signature does not live longer than minutes.
const RETRY_FOR: Duration = Duration::from_secs(60);
const MAX_REDIRECTS: u32 = 5;
/// Most bytes of an answer that are read.
const MAX_ANSWER_BYTES: usize = 8 * 1024 * 1024;
/// Most bytes of a store's error that are looked at.
const MAX_ERROR_BYTES: usize = 64 * 1024;

/// Dials for the checks and for the object stores.
#[derive(Debug, Clone)]
pub struct Dialer {
    checked: reqwest::Client,
    free: reqwest::Client,
    policy: Arc<Policy>,
    first_pause: Duration,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
#[error("cannot make an HTTP client")]
pub struct DialerError(#[from] reqwest::Error);

/// Who asks.
#[derive(Clone, Default)]
pub enum Login {
    /// Nobody.
    #[default]
    Nobody,
    /// The holder of a token.
    Token(String),
    /// A user with a password.
    User(String, String),
}

/// An answer, of whatever status.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The JSON body; null when it is not JSON.
    pub body: Value,
    /// Where it redirects to.
    pub location: Option<String>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Silence {
    /// The address leads where no run may go.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The text is no address.
    #[error("the address cannot be read")]
    Address,
    /// No connection.
    #[error("no connection to {0}")]
    Unreachable(String),
    /// Nothing came in time.
    #[error("no answer from {0} in time")]
    TimedOut(String),
    /// The answer has no end.
    #[error("the answer of {0} is larger than is read")]
    TooLarge(String),
}

impl Dialer {
    /// A client that obeys `policy`.
    pub fn new(policy: Policy) -> Result<Self, DialerError> {
        // A second installation says that one is there already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let policy = Arc::new(policy);
        Ok(Self { checked: client(Some(&policy))?, free: client(None)?, policy, first_pause: FIRST_PAUSE })
    }

    /// For an object store, all of whose addresses a user may have chosen.
    #[must_use]
    pub fn checking_all(&self) -> Connector {
        Connector { dialer: self.clone(), only: None }
    }

    /// For an object store whose credentials come from the pod's identity: that chain may reach the metadata service,
    /// the store at `host` may not be one.
    #[must_use]
    pub fn checking_only(&self, host: String) -> Connector {
        Connector { dialer: self.clone(), only: Some(host) }
    }

    /// The same with another pause before the second try, which grows from try to try: for tests.
    #[must_use]
    pub fn pausing(self, first_pause: Duration) -> Self {
        Self { first_pause, ..self }
    }

    /// How often, and after which pauses, object stores are asked again.
    #[must_use]
    pub fn retry(&self) -> RetryConfig {
        RetryConfig {
            backoff: BackoffConfig { init_backoff: self.first_pause, max_backoff: self.first_pause * 20, base: 3.0 },
            max_retries: TRIES as usize - 1,
            retry_timeout: RETRY_FOR,
        }
    }

    /// Whether the policy lets this machine's own addresses pass.
    #[must_use]
    pub fn allows_local(&self) -> bool {
        self.policy.allows_local()
    }

    /// Asks until there is an answer that will not be another one a moment later, or the tries are used up.
    pub async fn ask(&self, method: Method, address: &str, login: &Login, body: Option<&Value>) -> Result<Answer, Silence> {
        self.policy.check(address)?;
        let url = Url::parse(address).map_err(|_| Silence::Address)?;
        let host = url.host_str().unwrap_or_default().to_owned();
        let mut pause = self.first_pause;
        for tries_left in (0..TRIES).rev() {
            let result = self.once(method.clone(), &url, &host, login, body).await;
            let again = match &result {
                Ok(answer) => answer.is_transient(),
                Err(silence) => silence.is_transient(),
            };
            if !again || tries_left == 0 {
                return result;
            }
            tokio::time::sleep(pause).await;
            pause *= 3;
        }
        Err(Silence::TimedOut(host))
    }

    /// Fetches a file of a hub, which may lie on another host: redirects are followed, each checked, and only the first
    /// host gets the login.
    pub async fn download(&self, address: &str, login: &Login, limit: usize) -> Result<(u16, Bytes), Silence> {
        let mut url = Url::parse(address).map_err(|_| Silence::Address)?;
        let first = url.origin();
        for _ in 0..MAX_REDIRECTS {
            self.policy.check(url.as_str())?;
            let host = url.host_str().unwrap_or_default().to_owned();
            let login = if url.origin() == first { login } else { &Login::Nobody };
            let (status, location, bytes) = self.fetch(&url, &host, login, limit).await?;
            match location.and_then(|location| url.join(&location).ok()) {
                Some(next) if (300..400).contains(&status) => url = next,
                _ => return Ok((status, bytes)),
            }
        }
        Err(Silence::TimedOut(url.host_str().unwrap_or_default().to_owned()))
    }

    async fn fetch(&self, url: &Url, host: &str, login: &Login, limit: usize) -> Result<(u16, Option<String>, Bytes), Silence> {
        let mut pause = self.first_pause;
        for tries_left in (0..TRIES).rev() {
            let request = self.request(Method::GET, url, login).timeout(DOWNLOAD);
            let result = received(request, host, limit).await;
            let again = match &result {
                Ok((status, ..)) => is_transient(*status),
                Err(silence) => silence.is_transient(),
            };
            if !again || tries_left == 0 {
                return result;
            }
            tokio::time::sleep(pause).await;
            pause *= 3;
        }
        Err(Silence::TimedOut(host.to_owned()))
    }

    fn request(&self, method: Method, url: &Url, login: &Login) -> reqwest::RequestBuilder {
        let request = self.checked.request(method, url.clone());
        match login {
            Login::Nobody => request,
            Login::Token(token) => request.bearer_auth(token),
            Login::User(user, password) => request.basic_auth(user, Some(password)),
        }
    }

    async fn once(&self, method: Method, url: &Url, host: &str, login: &Login, body: Option<&Value>) -> Result<Answer, Silence> {
        let mut request = self.request(method, url, login).timeout(ANSWER);
        if let Some(body) = body {
            request = request.json(body);
        }
        let (status, location, bytes) = received(request, host, MAX_ANSWER_BYTES).await?;
        Ok(Answer { status, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null), location })
    }
}

async fn received(request: reqwest::RequestBuilder, host: &str, limit: usize) -> Result<(u16, Option<String>, Bytes), Silence> {
    let silence = |error: reqwest::Error| match denied_in(&error) {
        Some(denied) => Silence::Denied(denied),
        None if error.is_timeout() => Silence::TimedOut(host.to_owned()),
        None => Silence::Unreachable(host.to_owned()),
    };
    let mut response = request.send().await.map_err(silence)?;
    let status = response.status().as_u16();
    let location = response.headers().get("location").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let mut bytes = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(silence)? {
        if bytes.len() + chunk.len() > limit {
            return Err(Silence::TooLarge(host.to_owned()));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok((status, location, bytes.freeze()))
}

fn is_transient(status: u16) -> bool {
    matches!(status, 408 | 429 | 500..=599)
}

impl Silence {
    fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::TimedOut(_))
    }
}

impl Answer {
    /// Whether asking again later may be answered otherwise.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        is_transient(self.status)
    }
}

fn client(policy: Option<&Arc<Policy>>) -> Result<reqwest::Client, reqwest::Error> {
    let builder = || {
        let builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(if policy.is_some() { CONNECT } else { CONNECT_TO_IDENTITY })
            .read_timeout(SILENCE)
            .user_agent(concat!("finetune-preflight/", env!("CARGO_PKG_VERSION")))
            .http1_only();
        match policy {
            Some(policy) => builder.dns_resolver(CheckingResolver(Arc::clone(policy))),
            None => builder,
        }
    };
    builder().build().or_else(|_| {
        // An image without CA certificates can still reach plain HTTP; HTTPS then says that the certificate is not trusted.
        let trust_nobody = rustls::ClientConfig::builder().with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
        builder().tls_backend_preconfigured(trust_nobody).build()
    })
}

/// The denial among the causes of an error.
pub(super) fn denied_in(error: &(dyn std::error::Error + 'static)) -> Option<Denied> {
    std::iter::successors(Some(error), |&error| error.source()).find_map(|error| error.downcast_ref::<Denied>().cloned())
}

/// Gives the object stores our client.
#[derive(Debug, Clone)]
pub struct Connector {
    dialer: Dialer,
    only: Option<String>,
}

impl HttpConnector for Connector {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

impl Connector {
    async fn dial(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let checked = self.only.as_deref().is_none_or(|host| request.uri().host() == Some(host));
        if !checked {
            return bounded(self.dialer.free.call(request).await?).await;
        }
        let denied = |denied| HttpError::new(HttpErrorKind::Unknown, denied);
        self.dialer.policy.check(&request.uri().to_string()).map_err(denied)?;
        match self.dialer.checked.call(request).await {
            Ok(response) => bounded(response).await,
            // As another kind it would be asked again.
            Err(error) => Err(denied_in(&error).map_or(error, denied)),
        }
    }
}

impl HttpService for Connector {
    fn call<'a, 'b>(&'a self, request: HttpRequest) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(self.dial(request))
    }
}

/// Leaves of an error's body only its code: the rest may be endless, and it repeats the access key.
async fn bounded(response: HttpResponse) -> Result<HttpResponse, HttpError> {
    if response.status().is_success() || response.status().is_informational() {
        return Ok(response);
    }
    let (parts, body) = response.into_parts();
    let mut stream = body.bytes_stream();
    let mut start = BytesMut::new();
    while let Some(chunk) = stream.next().await {
        let Ok(chunk) = chunk else { break };
        let room = MAX_ERROR_BYTES - start.len();
        start.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if start.len() == MAX_ERROR_BYTES {
            break;
        }
    }
    let code = code_of(&String::from_utf8_lossy(&start)).map(|code| format!("<Code>{code}</Code>")).unwrap_or_default();
    Ok(HttpResponse::from_parts(parts, code.into()))
}

/// The error code that S3, Google Cloud Storage and Azure answer with.
pub(super) fn code_of(body: &str) -> Option<&str> {
    let (code, _) = body.split_once("<Code>")?.1.split_once("</Code>")?;
    (!code.is_empty() && code.len() <= 64 && code.chars().all(|c| c.is_ascii_alphanumeric())).then_some(code)
}
