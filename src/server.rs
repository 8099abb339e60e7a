//! `/metrics`, `/healthz` and `/readyz` on a port of their own: plain HTTP, reads only.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum_server::Handle;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::connections::{Gate, Limits, close_on, limited};
use crate::metrics::Metrics;

const LIMITS: Limits = Limits { connections: 64, per_address: 32, read: Duration::from_secs(5) };
const GRACE: Duration = Duration::from_secs(1);

/// Whether the operator can do its work; a clone says the same. A replica that waits for the lease is ready.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// Says so from now on.
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Relaxed);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Why the port does not answer.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address cannot be had.
    #[error("listen on {address} for metrics and health")]
    Listen {
        /// Address.
        address: SocketAddr,
        /// Cause.
        source: std::io::Error,
    },
    /// Accepting connections failed.
    #[error("serve metrics and health")]
    Serve(#[source] std::io::Error),
}

/// The server, bound to its address.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    router: Router,
}

impl Server {
    /// Takes the address.
    pub async fn bind(listen: SocketAddr, metrics: Metrics, readiness: Readiness) -> Result<Self, ServerError> {
        let failed = |source| ServerError::Listen { address: listen, source };
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let router = Router::new()
            .route("/metrics", get(text).with_state(metrics))
            .route("/healthz", get(|| async { "ok" }))
            .route("/readyz", get(ready).with_state(readiness));
        Ok(Self { listener, address, router })
    }

    /// The address it listens on.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown`.
    pub async fn serve(self, shutdown: CancellationToken) -> Result<(), ServerError> {
        let handle = Handle::new();
        let socket = axum_server::Server::from_listener(self.listener).handle(handle.clone()).acceptor(Gate::new(LIMITS));
        let serve = limited(socket, LIMITS).serve(self.router.into_make_service());
        tokio::select! {
            ended = serve => ended.map_err(ServerError::Serve),
            () = close_on(shutdown, handle, GRACE) => Ok(()),
        }
    }
}

async fn text(State(metrics): State<Metrics>) -> Response {
    match metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn ready(State(readiness): State<Readiness>) -> Response {
    if readiness.get() { "ok".into_response() } else { (StatusCode::SERVICE_UNAVAILABLE, "starting").into_response() }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    async fn request(address: SocketAddr, head: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn get(address: SocketAddr, path: &str) -> (String, String) {
        let answer = request(address, &format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.lines().next().unwrap().to_owned(), body.to_owned())
    }

    #[tokio::test]
    async fn metrics_health_and_readiness_answer_and_nothing_else_does() {
        let (metrics, readiness, shutdown) = (Metrics::new(), Readiness::default(), CancellationToken::new());
        let server = Server::bind(([127, 0, 0, 1], 0).into(), metrics.clone(), readiness.clone()).await.unwrap();
        let address = server.local_addr();
        let serving = tokio::spawn(server.serve(shutdown.clone()));
        let ok = |body: &str| ("HTTP/1.1 200 OK".to_owned(), body.to_owned());
        assert_eq!(get(address, "/healthz").await, ok("ok"));
        assert_eq!(get(address, "/readyz").await, ("HTTP/1.1 503 Service Unavailable".to_owned(), "starting".to_owned()));
        readiness.set(true);
        assert_eq!(get(address, "/readyz").await, ok("ok"));
        assert_eq!(get(address, "/metrics").await, ok(&metrics.text().unwrap()));
        assert_eq!(get(address, "/debug/pprof").await.0, "HTTP/1.1 404 Not Found");
        assert!(request(address, "POST /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n").await.starts_with("HTTP/1.1 405"));
        shutdown.cancel();
        serving.await.unwrap().unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }
}
