//! The endpoint that trainers post to: a sender is proved, its post is cut to bounds and kept in memory for `observe`.
//!
//! Nothing here writes to the cluster, and no verdict rests on anything that arrives here.

mod answer;
mod auth;
mod endpoint;
mod forward;
mod limit;
pub mod message;
mod review;
pub mod store;
pub mod tls;
pub mod wire;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum_server::Handle;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use answer::Answer;
pub use auth::{Authenticate, CurrentRun, Runs, Sender};
pub use forward::Leader;
pub use review::PodTokens;

use crate::connections::{Gate, Limits, close_on, limited};
use crate::metrics::Metrics;
use store::Store;

/// Requests that are under way get this long when the operator ends.
const GRACE: Duration = Duration::from_secs(2);

/// Where the endpoint listens and what it allows.
#[derive(Clone, Debug)]
pub struct Config {
    /// Address and port.
    pub listen: SocketAddr,
    /// Folder with `tls.crt`, `tls.key` and `ca.crt`.
    pub cert_dir: PathBuf,
    /// How often the folder is looked at for a new certificate.
    pub reload_every: Duration,
    /// Connections and times.
    pub limits: Limits,
    /// Where posts go while this replica does not know the runs; not set: nowhere, and the sender is told to try again.
    pub leader: Option<Leader>,
}

impl Config {
    /// The usual limits.
    #[must_use]
    pub fn new(listen: SocketAddr, cert_dir: PathBuf) -> Self {
        let limits = Limits { connections: 512, per_address: 128, read: Duration::from_secs(5) };
        Self { listen, cert_dir, reload_every: Duration::from_secs(10), limits, leader: None }
    }
}

/// Why the endpoint cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The certificate cannot be used.
    #[error("load the certificate of the report endpoint")]
    Certificate(#[from] tls::TlsError),
    /// The address cannot be had.
    #[error("listen on {address} for reports")]
    Listen {
        /// Address.
        address: SocketAddr,
        /// Cause.
        source: std::io::Error,
    },
    /// Accepting connections failed.
    #[error("serve reports")]
    Serve(#[source] std::io::Error),
}

/// The endpoint, bound to its address.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    files: tls::Files,
    tls: RustlsConfig,
    config: Config,
    router: axum::Router,
}

impl Server {
    /// Loads the certificate and takes the address, so that what is wrong with either is known at the start.
    pub async fn bind<A: Authenticate, R: Runs>(
        config: Config,
        authenticator: A,
        runs: R,
        store: Arc<Store>,
        metrics: Metrics,
    ) -> Result<Self, ServeError> {
        let files = tls::Files::read(&config.cert_dir).await?;
        let tls = RustlsConfig::from_config(files.config()?);
        let failed = |source| ServeError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let forward = config.leader.clone().map(|leader| forward::Forward::new(leader, config.cert_dir.clone()));
        let router = endpoint::Endpoint::new(authenticator, runs, store, metrics, config.limits.read, forward).router();
        Ok(Self { listener, address, files, tls, config, router })
    }

    /// The address it listens on.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown`.
    pub async fn serve(self, shutdown: CancellationToken) -> Result<(), ServeError> {
        let Self { listener, files, tls, config, router, .. } = self;
        let handle = Handle::new();
        let gate = RustlsAcceptor::new(tls.clone()).handshake_timeout(config.limits.read).acceptor(Gate::new(config.limits));
        let socket = axum_server::Server::from_listener(listener).handle(handle.clone()).acceptor(gate);
        let serve = limited(socket, config.limits).serve(router.into_make_service_with_connect_info::<SocketAddr>());
        tokio::select! {
            ended = serve => ended.map_err(ServeError::Serve),
            () = tls::reload(config.cert_dir, files, tls, config.reload_every) => Ok(()),
            () = close_on(shutdown, handle, GRACE) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
