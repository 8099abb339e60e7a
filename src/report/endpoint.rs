//! The two routes that trainers post to: read, prove, cut to bounds, keep. Answers from memory and writes nothing.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Path, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use futures::StreamExt;
use jiff::Timestamp;

use super::answer::Answer;
use super::auth::{self, Authenticate, CurrentRun, Runs, Sender};
use super::forward::{FORWARDED, Forward};
use super::limit::Limiter;
use super::message::Report;
use super::store::{RunKey, Store};
use super::wire;
use crate::metrics::Metrics;

const OWN_ROUTE: &str = "/v1/namespaces/{namespace}/runs/{run}/report";
const KUBEFLOW_ROUTE: &str = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/{namespace}/trainjobs/{run}/status";

/// Longest body that is read.
const BODY_LIMIT: usize = 64 * 1024;
/// Rest of a longer body that is thrown away, so that its sender gets to read the answer.
const DISCARD_LIMIT: usize = 1024 * 1024;
const TOKEN_LIMIT: usize = 8 * 1024;
const POSTS_PER_SECOND: u32 = 10;
const POSTS_AT_ONCE: u32 = 20;

/// What a post is judged by and where it goes.
pub(crate) struct Endpoint<A, R> {
    pub(crate) authenticator: A,
    pub(crate) runs: R,
    pub(crate) store: Arc<Store>,
    pub(crate) metrics: Metrics,
    pub(crate) read_limit: Duration,
    forward: Option<Forward>,
    posts: Limiter<String>,
}

impl<A: Authenticate, R: Runs> Endpoint<A, R> {
    pub(crate) fn new(authenticator: A, runs: R, store: Arc<Store>, metrics: Metrics, read_limit: Duration, forward: Option<Forward>) -> Self {
        let posts = Limiter::new(POSTS_PER_SECOND, POSTS_AT_ONCE, super::store::CAPACITY);
        Self { authenticator, runs, store, metrics, read_limit, forward, posts }
    }

    pub(crate) fn router(self) -> Router {
        Router::new().route(OWN_ROUTE, post(own::<A, R>)).route(KUBEFLOW_ROUTE, post(kubeflow::<A, R>)).with_state(Arc::new(self))
    }

    /// `read` turns the body into a report once the sender is proved.
    async fn take<F>(&self, request: Request, read: F) -> Result<(), Refusal>
    where
        F: FnOnce(&[u8], &CurrentRun, &Sender, Timestamp) -> Result<Report, wire::MessageError>,
    {
        let Request { uri, namespace, run, address, headers, body } = request;
        let body = self.read(body).await?;
        let token = bearer(&headers).ok_or(Answer::Unauthenticated)?;
        let sender = self.authenticator.authenticate(token, address).await?;
        if !self.runs.ready() {
            let further = self.forward.as_ref().filter(|_| !headers.contains_key(FORWARDED)).ok_or(Answer::NotYet)?;
            return match further.send(uri.path(), token, body).await {
                Answer::Accepted => Ok(()),
                answer => Err(answer.into()),
            };
        }
        let current = self.runs.current(&namespace, &run).ok_or(Answer::Forbidden)?;
        auth::authorize(&sender, &namespace, &run, &current)?;
        if !self.posts.allow(&current.uid) {
            return Err(Answer::TooMany.into());
        }
        let now = Timestamp::now();
        let report = read(&body, &current, &sender, now)?;
        if report.attempt != current.attempt {
            return Err(Answer::OtherAttempt.into());
        }
        self.store.put(&RunKey { uid: current.uid, namespace, name: run }, report, now);
        Ok(())
    }

    async fn read(&self, body: Body) -> Result<Vec<u8>, Answer> {
        tokio::time::timeout(self.read_limit, collect(body)).await.unwrap_or(Err(Answer::Slow))
    }
}

/// A post before it is judged.
struct Request {
    uri: Uri,
    namespace: String,
    run: String,
    address: IpAddr,
    headers: HeaderMap,
    body: Body,
}

/// Why a post was not taken.
enum Refusal {
    Answer(Answer),
    Message(wire::MessageError),
}

impl From<Answer> for Refusal {
    fn from(answer: Answer) -> Self {
        Self::Answer(answer)
    }
}

impl From<wire::MessageError> for Refusal {
    fn from(error: wire::MessageError) -> Self {
        Self::Message(error)
    }
}

async fn own<A: Authenticate, R: Runs>(
    State(endpoint): State<Arc<Endpoint<A, R>>>,
    Path((namespace, run)): Path<(String, String)>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let request = Request { uri, namespace, run, address: peer.ip(), headers, body };
    let taken = endpoint.take(request, |body, current, _, now| wire::own(body, &current.outputs, now)).await;
    respond(&endpoint.metrics, taken.map(|()| Answer::Accepted.into_response()))
}

/// The client of that route takes 200 with a JSON body for success.
async fn kubeflow<A: Authenticate, R: Runs>(
    State(endpoint): State<Arc<Endpoint<A, R>>>,
    Path((namespace, run)): Path<(String, String)>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let request = Request { uri, namespace, run, address: peer.ip(), headers, body };
    let taken = endpoint.take(request, |body, current, sender, now| wire::kubeflow(body, current.attempt, &sender.pod_uid, now)).await;
    let understood = (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], "{}");
    respond(&endpoint.metrics, taken.map(|()| understood.into_response()))
}

fn respond(metrics: &Metrics, taken: Result<Response, Refusal>) -> Response {
    let (answer, response) = match taken {
        Ok(response) => (Answer::Accepted, response),
        Err(Refusal::Answer(answer)) => (answer, answer.into_response()),
        Err(Refusal::Message(error)) => (Answer::Malformed, (StatusCode::BAD_REQUEST, error.to_string()).into_response()),
    };
    metrics.report_answered(answer);
    tracing::debug!(answer = answer.as_str(), "report");
    response
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    let plausible = (16..=TOKEN_LIMIT).contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic());
    (scheme.eq_ignore_ascii_case("bearer") && plausible).then_some(token)
}

async fn collect(body: Body) -> Result<Vec<u8>, Answer> {
    let mut chunks = body.into_data_stream();
    let mut whole = Vec::new();
    let mut length = 0;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| Answer::Slow)?;
        length += chunk.len();
        if length <= BODY_LIMIT {
            whole.extend_from_slice(&chunk);
        } else if length > DISCARD_LIMIT {
            break;
        }
    }
    if length > BODY_LIMIT { Err(Answer::TooLarge) } else { Ok(whole) }
}
