//! Object stores behind a REST API that the `object_store` crate does not know: lists, reads with ranges, writes whole objects and
//! deletes. No multipart uploads, no copies.

use std::collections::VecDeque;
use std::fmt::{Debug, Display, Formatter};
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, Error, Extensions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, IF_NONE_MATCH, LAST_MODIFIED, LOCATION, RANGE};
use reqwest::{Method, RequestBuilder, Response};
use serde_json::Value;
use url::Url;

use super::dial::{Dialer, MAX_ANSWER_BYTES, Silence, host_of, is_transient, received, silence};

/// Most pages of one listing: a service could go on for ever with empty ones.
const MAX_PAGES: usize = 100_000;
/// Most addresses that lead on to another.
const MAX_REDIRECTS: u32 = 5;
/// Most bytes of a service's error that are looked at.
const MAX_ERROR_BYTES: usize = 64 * 1024;

/// What differs between the services.
#[async_trait]
pub(super) trait Protocol: Debug + Send + Sync + 'static {
    /// Name in errors.
    const NAME: &'static str;

    /// Whether an object may lie at another address; then `request` must give the credential to its own host only.
    const FOLLOWS: bool = false;

    /// Prepares what all addresses need.
    async fn ready(&self, _dialer: &Dialer) -> Result<(), RemoteError> {
        Ok(())
    }

    /// The address of an object.
    fn object(&self, path: &Path) -> Url;

    /// The address to write an object to; with `only_new` not over another one, unless a header says so.
    fn target(&self, path: &Path, only_new: bool) -> Url;

    /// The address of one page of what lies in a folder.
    fn listing(&self, folder: &Path, page: Option<&str>) -> Url;

    /// What a page says; none when it makes no sense.
    fn page(&self, folder: &Path, body: &Value) -> Option<Page>;

    /// A request with its credential.
    fn request(&self, dialer: &Dialer, method: Method, url: &Url) -> Result<RequestBuilder, Silence>;
}

/// Part of a listing.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Page {
    pub(super) objects: Vec<ObjectMeta>,
    /// Folders that are to be listed by themselves.
    pub(super) folders: Vec<Path>,
    pub(super) next: Option<String>,
}

/// Why a service did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum RemoteError {
    /// It said no.
    #[error("the service answered {status}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Its own word for it: letters and underscores only.
        code: Option<String>,
    },
    /// It said nothing.
    #[error("the service did not answer")]
    Silent(#[source] Silence),
    /// It said something else.
    #[error("the answer makes no sense")]
    Nonsense,
}

impl From<Silence> for RemoteError {
    fn from(silence: Silence) -> Self {
        Self::Silent(silence)
    }
}

/// An object store over a protocol.
#[derive(Debug)]
pub(super) struct Remote<P> {
    dialer: Dialer,
    protocol: Arc<P>,
}

impl<P> Clone for Remote<P> {
    fn clone(&self) -> Self {
        Self { dialer: self.dialer.clone(), protocol: Arc::clone(&self.protocol) }
    }
}

impl<P> Display for Remote<P> {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str("remote")
    }
}

impl<P: Protocol> Remote<P> {
    pub(super) fn new(dialer: Dialer, protocol: P) -> Self {
        Self { dialer, protocol: Arc::new(protocol) }
    }

    /// Asks until it is answered, with the headers and the body that `complete` adds.
    async fn ask(&self, method: Method, url: &Url, complete: impl Fn(RequestBuilder) -> RequestBuilder) -> Result<Response, RemoteError> {
        let mut url = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let once = || async {
                let request = complete(self.protocol.request(&self.dialer, method.clone(), &url)?);
                request.send().await.map_err(|error| silence(&error, host_of(&url)))
            };
            let response = self.dialer.retried(once, |response| response.status().as_u16()).await?;
            let status = response.status().as_u16();
            if response.status().is_success() || (P::FOLLOWS && method == Method::HEAD && linked(response.headers()).is_some()) {
                return Ok(response);
            }
            let next =
                text(response.headers(), &LOCATION).and_then(|next| url.join(next).ok()).filter(|_| P::FOLLOWS && (300..400).contains(&status));
            let Some(next) = next else {
                return Err(RemoteError::Refused { status, code: if is_transient(status) { None } else { code(response).await } });
            };
            url = next;
        }
        Err(RemoteError::Nonsense)
    }

    async fn json(&self, url: &Url) -> Result<Value, RemoteError> {
        let once = || async {
            let request = self.dialer.patient(self.protocol.request(&self.dialer, Method::GET, url)?);
            received(request, host_of(url), MAX_ANSWER_BYTES).await
        };
        let (status, _, bytes) = self.dialer.retried(once, |(status, ..)| *status).await?;
        let body: Option<Value> = serde_json::from_slice(&bytes).ok();
        match (status, body) {
            (200, Some(body)) => Ok(body),
            (200, None) => Err(RemoteError::Nonsense),
            (status, body) => Err(RemoteError::Refused { status, code: body.as_ref().and_then(word) }),
        }
    }

    async fn get(&self, location: &Path, options: GetOptions) -> Result<GetResult, RemoteError> {
        self.protocol.ready(&self.dialer).await?;
        let url = self.protocol.object(location);
        let method = if options.head { Method::HEAD } else { Method::GET };
        let response = self
            .ask(method, &url, |request| match &options.range {
                Some(range) => request.header(RANGE, range.to_string()),
                None => request,
            })
            .await?;
        let headers = response.headers();
        let number = |text: &str| text.trim().parse::<u64>().ok();
        let linked = linked(headers).filter(|_| P::FOLLOWS && options.head);
        let (range, size) = if let Some((size, _)) = &linked {
            (0..*size, *size)
        } else if response.status().as_u16() == 206 {
            part(headers).ok_or(RemoteError::Nonsense)?
        } else {
            let size = text(headers, &CONTENT_LENGTH).and_then(number).ok_or(RemoteError::Nonsense)?;
            (0..size, size)
        };
        if options.range.is_some() && response.status().as_u16() != 206 && !options.head {
            return Err(RemoteError::Nonsense);
        }
        let meta = ObjectMeta {
            location: location.clone(),
            last_modified: text(headers, &LAST_MODIFIED)
                .and_then(|at| DateTime::parse_from_rfc2822(at).ok())
                .map(|at| at.to_utc())
                .unwrap_or_default(),
            size,
            e_tag: linked.map(|(_, tag)| tag).or_else(|| text(headers, &ETAG).map(str::to_owned)),
            version: None,
        };
        let host = host_of(&url).to_owned();
        let broken = move |error: reqwest::Error| Error::Generic { store: P::NAME, source: Box::new(silence(&error, &host)) };
        let content: BoxStream<'static, object_store::Result<Bytes>> =
            if options.head { futures::stream::empty().boxed() } else { response.bytes_stream().map_err(broken).boxed() };
        Ok(GetResult { payload: GetResultPayload::Stream(content), meta, range, attributes: Attributes::new(), extensions: Extensions::default() })
    }

    async fn put(&self, location: &Path, payload: PutPayload, only_new: bool) -> Result<PutResult, RemoteError> {
        self.protocol.ready(&self.dialer).await?;
        let url = self.protocol.target(location, only_new);
        let body = Bytes::from(payload);
        let response = self
            .ask(Method::PUT, &url, |request| {
                let request = if only_new { request.header(IF_NONE_MATCH, "*") } else { request };
                request.header("content-type", "application/octet-stream").body(body.clone())
            })
            .await?;
        Ok(PutResult { e_tag: text(response.headers(), &ETAG).map(str::to_owned), version: None, extensions: Extensions::default() })
    }

    async fn delete_one(&self, location: &Path) -> Result<(), RemoteError> {
        self.protocol.ready(&self.dialer).await?;
        self.ask(Method::DELETE, &self.protocol.object(location), |request| request).await.map(|_| ())
    }

    /// One page; a folder that is not there is an empty one, as in other stores.
    async fn page(&self, folder: &Path, page: Option<&str>) -> Result<Page, RemoteError> {
        self.protocol.ready(&self.dialer).await?;
        match self.json(&self.protocol.listing(folder, page)).await {
            Ok(body) => self.protocol.page(folder, &body).ok_or(RemoteError::Nonsense),
            Err(RemoteError::Refused { status: 404, code }) if code.as_deref().is_none_or(|code| code == "NOT_FOUND") => Ok(Page::default()),
            Err(error) => Err(error),
        }
    }
}

/// Size and tag of what a redirect leads to, which the hub tells beforehand.
fn linked(headers: &HeaderMap) -> Option<(u64, String)> {
    let value = |name| headers.get(name).and_then(|value| value.to_str().ok());
    Some((value("x-linked-size")?.parse().ok()?, value("x-linked-etag")?.to_owned()))
}

/// The part of an object that is in an answer, and the size of the whole.
fn part(headers: &HeaderMap) -> Option<(Range<u64>, u64)> {
    let (range, size) = text(headers, &CONTENT_RANGE)?.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, size) = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?, size.parse().ok()?);
    (first <= last && last < size).then_some((first..last + 1, size))
}

fn text<'a>(headers: &'a HeaderMap, name: &reqwest::header::HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

async fn code(mut response: Response) -> Option<String> {
    let mut bytes = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > MAX_ERROR_BYTES {
            return None;
        }
    }
    word(&serde_json::from_slice(&bytes).ok()?)
}

/// The word for an error, of Databricks or of Oracle.
fn word(body: &Value) -> Option<String> {
    let code = body.get("error_code").or_else(|| body.get("code"))?.as_str()?;
    (!code.is_empty() && code.len() <= 64 && code.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')).then(|| code.to_owned())
}

fn explained<P: Protocol>(location: &Path, error: RemoteError) -> Error {
    let path = location.to_string();
    let status = if let RemoteError::Refused { status, .. } = &error { Some(*status) } else { None };
    let source = Box::new(error);
    match status {
        Some(404) => Error::NotFound { path, source },
        Some(409) => Error::AlreadyExists { path, source },
        Some(412) => Error::Precondition { path, source },
        Some(401) => Error::Unauthenticated { path, source },
        Some(403) => Error::PermissionDenied { path, source },
        _ => Error::Generic { store: P::NAME, source },
    }
}

#[async_trait]
impl<P: Protocol> ObjectStore for Remote<P> {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> object_store::Result<PutResult> {
        let only_new = match options.mode {
            PutMode::Create => true,
            PutMode::Overwrite => false,
            PutMode::Update(_) => return Err(unable("put_opts with PutMode::Update", P::NAME)),
        };
        self.put(location, payload, only_new).await.map_err(|error| explained::<P>(location, error))
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> object_store::Result<Box<dyn MultipartUpload>> {
        Err(unable("put_multipart_opts", P::NAME))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        let conditions = options.clone();
        let found = self.get(location, options).await.map_err(|error| explained::<P>(location, error))?;
        conditions.check_preconditions(&found.meta)?;
        Ok(found)
    }

    fn delete_stream(&self, locations: BoxStream<'static, object_store::Result<Path>>) -> BoxStream<'static, object_store::Result<Path>> {
        let store = self.clone();
        let delete = move |location: Path| {
            let store = store.clone();
            async move { store.delete_one(&location).await.map_err(|error| explained::<P>(&location, error)).map(|()| location) }
        };
        locations.and_then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        let start = Walk { store: self.clone(), folders: vec![(prefix.cloned().unwrap_or_default(), None)], found: VecDeque::new(), pages: 0 };
        futures::stream::try_unfold(start, |mut walk| async move { Ok(walk.next().await?.map(|found| (found, walk))) }).boxed()
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> object_store::Result<ListResult> {
        Err(unable("list_with_delimiter", P::NAME))
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> object_store::Result<()> {
        Err(unable("copy_opts", P::NAME))
    }
}

fn unable(operation: &str, implementer: &str) -> Error {
    Error::NotImplemented { operation: operation.to_owned(), implementer: implementer.to_owned() }
}

/// A walk through folders, depth first, one page in memory.
struct Walk<P> {
    store: Remote<P>,
    folders: Vec<(Path, Option<String>)>,
    found: VecDeque<ObjectMeta>,
    pages: usize,
}

impl<P: Protocol> Walk<P> {
    async fn next(&mut self) -> object_store::Result<Option<ObjectMeta>> {
        while self.found.is_empty() {
            let Some((folder, page)) = self.folders.pop() else { return Ok(None) };
            self.pages += 1;
            if self.pages > MAX_PAGES {
                return Err(explained::<P>(&folder, RemoteError::Nonsense));
            }
            let Page { objects, folders, next } = self.store.page(&folder, page.as_deref()).await.map_err(|error| explained::<P>(&folder, error))?;
            if let Some(next) = next {
                self.folders.push((folder, Some(next)));
            }
            self.folders.extend(folders.into_iter().map(|folder| (folder, None)));
            self.found.extend(objects);
        }
        Ok(self.found.pop_front())
    }
}

/// A time in milliseconds since 1970, or text as RFC 3339 has it.
pub(super) fn time(value: &Value) -> DateTime<Utc> {
    let millis = value.as_i64().and_then(DateTime::from_timestamp_millis);
    millis.or_else(|| DateTime::parse_from_rfc3339(value.as_str()?).ok().map(|at| at.to_utc())).unwrap_or_default()
}
