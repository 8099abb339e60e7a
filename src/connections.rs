//! What every listening socket of the operator allows one peer and all peers: connections, headers, time.

use std::collections::HashMap;
use std::future::Ready;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Extension;
use axum::middleware::AddExtension;
use axum_server::Handle;
use axum_server::accept::Accept;
use hyper_util::rt::TokioTimer;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tower::Layer;

/// Headers hold a token of two kilobytes at most.
const HEADERS_LIMIT: usize = 32 * 1024;

/// Limits of one socket.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Of them from one address.
    pub per_address: usize,
    /// For the TLS handshake, and again for the headers of the request.
    pub read: Duration,
}

/// `server` with HTTP/1.1 only and one request a connection: nobody holds one without sending something.
pub(crate) fn limited<Acceptor>(server: axum_server::Server<SocketAddr, Acceptor>, limits: Limits) -> axum_server::Server<SocketAddr, Acceptor> {
    let mut server = server.http1_only();
    server.http_builder().http1().timer(TokioTimer::new()).header_read_timeout(limits.read).keep_alive(false).max_buf_size(HEADERS_LIMIT);
    server
}

/// Ends the server behind `handle` once `shutdown` is said, with `grace` for what is under way; itself it never ends.
pub(crate) async fn close_on(shutdown: CancellationToken, handle: Handle<SocketAddr>, grace: Duration) {
    shutdown.cancelled().await;
    handle.graceful_shutdown(Some(grace));
    std::future::pending::<()>().await;
}

/// Closes a connection at once that is one too many, before any byte of it is read.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    limits: Limits,
    open: Arc<Mutex<Open>>,
}

#[derive(Debug, Default)]
struct Open {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// One open connection; counts while it lives.
#[derive(Debug)]
pub(crate) struct Place {
    address: IpAddr,
    open: Arc<Mutex<Open>>,
}

impl Gate {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, open: Arc::default() }
    }

    fn enter(&self, address: IpAddr) -> Option<Place> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let here = open.by_address.get(&address).copied().unwrap_or_default();
        if open.all >= self.limits.connections || here >= self.limits.per_address {
            return None;
        }
        open.all += 1;
        open.by_address.insert(address, here + 1);
        Some(Place { address, open: Arc::clone(&self.open) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.all -= 1;
        if let Some(here) = open.by_address.get_mut(&self.address) {
            *here -= 1;
            if *here == 0 {
                open.by_address.remove(&self.address);
            }
        }
    }
}

impl<S> Accept<TcpStream, S> for Gate {
    type Stream = TcpStream;
    type Service = AddExtension<S, Arc<Place>>;
    type Future = Ready<io::Result<(Self::Stream, Self::Service)>>;

    /// The place travels with the service, which lives exactly as long as the connection, TLS handshake included.
    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let entered = stream.peer_addr().and_then(|peer| {
            let place = self.enter(peer.ip()).ok_or_else(|| io::Error::other("too many connections"))?;
            stream.set_nodelay(true)?;
            Ok(Extension(Arc::new(place)).layer(service))
        });
        std::future::ready(entered.map(|service| (stream, service)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_the_places_of_others_and_leaving_frees_them() {
        let gate = Gate::new(Limits { connections: 3, per_address: 2, read: Duration::from_secs(5) });
        let [a, b, c] = [1, 2, 3].map(|n| IpAddr::from([10, 0, 0, n]));
        let mut places = vec![gate.enter(a).unwrap(), gate.enter(a).unwrap()];
        assert!(gate.enter(a).is_none());
        places.push(gate.enter(b).unwrap());
        assert!(gate.enter(c).is_none());
        places.remove(0);
        assert!(gate.enter(c).is_some());
        drop(places);
        let open = gate.open.lock().unwrap();
        assert_eq!((open.all, open.by_address.len()), (0, 0));
    }
}
