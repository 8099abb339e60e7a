//! Gives the object stores our client: users' addresses are checked, redirects are not followed, and of an answer that is no
//! object's content only a bounded part is read.

use std::future::Future;
use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use object_store::ClientOptions;
use object_store::client::{HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService};
use url::Url;

use super::dial::{Dialer, MAX_ANSWER_BYTES, Silence, denied_in};

/// Most bytes of a store's error that are looked at.
const MAX_ERROR_BYTES: usize = 64 * 1024;
/// Where the identity of a pod comes from. No user's address may lead there, but a cloud's own chain of credentials may.
pub(super) const METADATA_HOSTS: [&str; 5] = ["169.254.169.254", "169.254.170.2", "169.254.170.23", "[fd00:ec2::23]", "metadata.google.internal"];

/// Gives an object store our client.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    dialer: Dialer,
    /// The store itself, beside which the metadata services may be asked for an identity; none: they may not.
    beside: Option<String>,
}

impl Connector {
    /// For a store whose credential is a Secret's.
    pub(super) fn with_secret(dialer: &Dialer) -> Self {
        Self { dialer: dialer.clone(), beside: None }
    }

    /// For the store at `host`, whose credential is the pod's identity: that chain may reach a metadata service, the store may not be one.
    pub(super) fn with_identity(dialer: &Dialer, host: String) -> Self {
        Self { dialer: dialer.clone(), beside: Some(host) }
    }

    async fn dial(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let denied = |denied| HttpError::new(HttpErrorKind::Unknown, denied);
        let host = request.uri().host().unwrap_or_default().to_owned();
        let asks_for_identity = METADATA_HOSTS.contains(&host.as_str()) && self.beside.as_ref().is_some_and(|store| *store != host);
        let is_content = !asks_for_identity && request.method().as_str() == "GET" && !request.uri().query().is_some_and(is_listing);
        let address = request.uri().to_string();
        if !asks_for_identity {
            self.dialer.check(&address).map_err(denied)?;
        }
        if let Some((at, host)) = Url::parse(&address).ok().and_then(|url| self.dialer.stand_in(&url)) {
            *request.uri_mut() = at.as_str().parse().map_err(|error| HttpError::new(HttpErrorKind::Request, error))?;
            request.headers_mut().insert("host", host);
        }
        let client = if asks_for_identity { self.dialer.free() } else { self.dialer.checked() };
        match client.call(request).await {
            Ok(response) if response.status().is_success() && is_content => Ok(response),
            Ok(response) => bounded(response, &host).await,
            // As another kind it would be asked again.
            Err(error) => Err(denied_in(&error).map_or(error, denied)),
        }
    }
}

/// Whether a query asks for names and not for content: of S3 and Google Cloud Storage, of Azure.
fn is_listing(query: &str) -> bool {
    query.split('&').any(|part| part == "list-type=2" || part == "comp=list")
}

impl HttpConnector for Connector {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
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

/// Reads an answer to its bound. Of an error only the code is left: the rest repeats the access key.
async fn bounded(response: HttpResponse, host: &str) -> Result<HttpResponse, HttpError> {
    let (parts, body) = response.into_parts();
    let is_success = parts.status.is_success();
    let limit = if is_success { MAX_ANSWER_BYTES } else { MAX_ERROR_BYTES };
    let mut stream = body.bytes_stream();
    let mut bytes = BytesMut::new();
    while let Some(chunk) = stream.next().await {
        let chunk = match chunk {
            Ok(chunk) => chunk,
            Err(error) if is_success => return Err(error),
            Err(_) => break,
        };
        let room = limit - bytes.len();
        bytes.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() > room && is_success {
            return Err(HttpError::new(HttpErrorKind::Unknown, Silence::TooLarge(host.to_owned())));
        }
        if bytes.len() == limit {
            break;
        }
    }
    let body = if is_success {
        bytes.freeze()
    } else {
        let code = code_of(&String::from_utf8_lossy(&bytes)).map(|code| format!("<Code>{code}</Code>"));
        Bytes::from(code.unwrap_or_default())
    };
    Ok(HttpResponse::from_parts(parts, body.into()))
}

/// The error code that S3, Google Cloud Storage and Azure answer with.
pub(super) fn code_of(body: &str) -> Option<&str> {
    let (code, _) = body.split_once("<Code>")?.1.split_once("</Code>")?;
    (!code.is_empty() && code.len() <= 64 && code.chars().all(|c| c.is_ascii_alphanumeric())).then_some(code)
}
