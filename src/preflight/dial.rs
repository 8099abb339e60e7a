//! The HTTP client of preflight: every user's address is checked where it is dialled, redirects are not followed,
//! answers are bounded, and what is transient is asked again.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use object_store::{BackoffConfig, RetryConfig};
use reqwest::Method;
use reqwest::header::{HOST, HeaderValue};
use serde_json::Value;
use url::Url;

use super::address::{CheckingResolver, Denied, Policy, lookup};

const TRIES: u32 = 4;
/// After this a store is not asked again: a signature does not live longer than minutes.
const RETRY_FOR: Duration = Duration::from_secs(60);
const MAX_REDIRECTS: u32 = 5;
/// Most bytes of an answer that are read.
pub(super) const MAX_ANSWER_BYTES: usize = 8 * 1024 * 1024;

/// How long is waited.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// For a connection.
    connect: Duration,
    /// For a connection to a metadata service, which is near or not there.
    connect_to_identity: Duration,
    /// For the next piece of an answer.
    silence: Duration,
    /// For a whole answer of a service.
    answer: Duration,
    /// For a whole small file.
    download: Duration,
    /// Before the second try; three times as long before each that follows.
    first_pause: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        let [connect, connect_to_identity, silence, answer, download] = [5, 2, 30, 20, 60].map(Duration::from_secs);
        Self { connect, connect_to_identity, silence, answer, download, first_pause: Duration::from_millis(250) }
    }
}

impl Pace {
    fn hurried() -> Self {
        let [connect, connect_to_identity, silence, answer, download] = [1000; 5].map(Duration::from_millis);
        Self { connect, connect_to_identity, silence, answer, download, first_pause: Duration::from_millis(1) }
    }
}

/// Dials for the checks and for the object stores.
#[derive(Debug, Clone)]
pub struct Dialer {
    checked: reqwest::Client,
    free: reqwest::Client,
    policy: Arc<Policy>,
    pace: Pace,
    stand_ins: Arc<BTreeMap<String, String>>,
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
        Self::at_pace(policy, Pace::default())
    }

    /// The same that waits for nothing long: for tests, whose servers are near.
    pub fn hurried(policy: Policy) -> Result<Self, DialerError> {
        Self::at_pace(policy, Pace::hurried())
    }

    fn at_pace(policy: Policy, pace: Pace) -> Result<Self, DialerError> {
        // A second installation says that one is there already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let policy = Arc::new(policy);
        let (checked, free) = (client(Some(&policy), pace)?, client(None, pace)?);
        Ok(Self { checked, free, policy, pace, stand_ins: Arc::default() })
    }

    /// The same where what is sent to `host`, once that is judged, goes to the server at `address` instead: for tests, whose
    /// emulators have neither the name nor the certificate of what they stand for. Nothing that a user writes gets here.
    #[must_use]
    pub fn standing_in(mut self, host: &str, address: &str) -> Self {
        Arc::make_mut(&mut self.stand_ins).insert(host.to_owned(), address.to_owned());
        self
    }

    /// How often, and after which pauses, object stores are asked again.
    #[must_use]
    pub fn retry(&self) -> RetryConfig {
        RetryConfig {
            backoff: BackoffConfig { init_backoff: self.pace.first_pause, max_backoff: self.pace.first_pause * 20, base: 3.0 },
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
        let url = Url::parse(address).map_err(|_| Silence::Address)?;
        let once = || async {
            let mut request = self.patient(self.request(method.clone(), &url, login)?);
            if let Some(body) = body {
                request = request.json(body);
            }
            let (status, location, bytes) = received(request, host_of(&url), MAX_ANSWER_BYTES).await?;
            Ok(Answer { status, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null), location })
        };
        self.retried(once, |answer| answer.status).await
    }

    /// Tries until the result will not be another one a moment later, or the tries are used up.
    pub(super) async fn retried<T, F>(&self, once: impl Fn() -> F, status: impl Fn(&T) -> u16) -> Result<T, Silence>
    where
        F: Future<Output = Result<T, Silence>>,
    {
        let mut pause = self.pace.first_pause;
        for _ in 1..TRIES {
            match once().await {
                Ok(answer) if is_transient(status(&answer)) => {}
                Err(Silence::Unreachable(_) | Silence::TimedOut(_)) => {}
                result => return result,
            }
            tokio::time::sleep(pause).await;
            pause *= 3;
        }
        once().await
    }

    /// Fetches a file of a hub, which may lie on another host: redirects are followed, each checked, and only the first
    /// host gets the login.
    pub async fn download(&self, address: &str, login: &Login, limit: usize) -> Result<(u16, Bytes), Silence> {
        let mut url = Url::parse(address).map_err(|_| Silence::Address)?;
        let first = url.origin();
        for _ in 0..MAX_REDIRECTS {
            let login = if url.origin() == first { login } else { &Login::Nobody };
            let (status, location, bytes) = self.fetch(&url, login, limit).await?;
            match location.and_then(|location| url.join(&location).ok()) {
                Some(next) if (300..400).contains(&status) => url = next,
                _ => return Ok((status, bytes)),
            }
        }
        Err(Silence::TimedOut(host_of(&url).to_owned()))
    }

    async fn fetch(&self, url: &Url, login: &Login, limit: usize) -> Result<(u16, Option<String>, Bytes), Silence> {
        let once = || async {
            let request = self.request(Method::GET, url, login)?.timeout(self.pace.download);
            received(request, host_of(url), limit).await
        };
        self.retried(once, |(status, ..)| *status).await
    }

    /// A request to an address that may be dialled.
    pub(super) fn request(&self, method: Method, url: &Url, login: &Login) -> Result<reqwest::RequestBuilder, Silence> {
        self.policy.check(url.as_str())?;
        let request = match self.stand_in(url) {
            Some((at, host)) => self.checked.request(method, at).header(HOST, host),
            None => self.checked.request(method, url.clone()),
        };
        Ok(match login {
            Login::Nobody => request,
            Login::Token(token) => request.bearer_auth(token),
            Login::User(user, password) => request.basic_auth(user, Some(password)),
        })
    }

    /// The request with the time that a service has for a whole answer.
    pub(super) fn patient(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        request.timeout(self.pace.answer)
    }

    /// The address of the server that stands in for the one of `url`, and the name that it answers to.
    pub(super) fn stand_in(&self, url: &Url) -> Option<(Url, HeaderValue)> {
        let at = Url::parse(self.stand_ins.get(host_of(url))?).ok()?;
        let host = HeaderValue::from_str(&url[url::Position::BeforeHost..url::Position::AfterPort]).ok()?;
        let mut stand_in = url.clone();
        stand_in.set_scheme(at.scheme()).and_then(|()| stand_in.set_host(at.host_str()).map_err(|_| ())).ok()?;
        stand_in.set_port(at.port()).ok()?;
        Some((stand_in, host))
    }

    /// Judges an address by what stands in it.
    pub(super) fn check(&self, address: &str) -> Result<(), Denied> {
        self.policy.check(address)
    }

    /// The client for what may be dialled whatever its address.
    pub(super) fn free(&self) -> &reqwest::Client {
        &self.free
    }

    /// The client that refuses what a name resolves to; names and numbers in the address itself are to be judged before.
    pub(super) fn checked(&self) -> &reqwest::Client {
        &self.checked
    }
}

/// The host in an address.
pub(super) fn host_of(url: &Url) -> &str {
    url.host_str().unwrap_or_default()
}

/// What an error of the client means.
pub(super) fn silence(error: &reqwest::Error, host: &str) -> Silence {
    match denied_in(error) {
        Some(denied) => Silence::Denied(denied),
        None if error.is_timeout() => Silence::TimedOut(host.to_owned()),
        None => Silence::Unreachable(host.to_owned()),
    }
}

/// Status, place of a redirect and body of an answer, if it has at most `limit` bytes.
pub(super) async fn received(request: reqwest::RequestBuilder, host: &str, limit: usize) -> Result<(u16, Option<String>, Bytes), Silence> {
    let silence = |error: reqwest::Error| silence(&error, host);
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

/// Whether a status will be another one a moment later.
pub(super) fn is_transient(status: u16) -> bool {
    matches!(status, 408 | 429 | 500..=599)
}

impl Answer {
    /// Whether asking again later may be answered otherwise.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        is_transient(self.status)
    }
}

fn client(policy: Option<&Arc<Policy>>, pace: Pace) -> Result<reqwest::Client, reqwest::Error> {
    let builder = || {
        let builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(if policy.is_some() { pace.connect } else { pace.connect_to_identity })
            .read_timeout(pace.silence)
            .user_agent(concat!("finetune-preflight/", env!("CARGO_PKG_VERSION")))
            .http1_only();
        match policy {
            Some(policy) => builder.dns_resolver(CheckingResolver(Arc::clone(policy), lookup)),
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
