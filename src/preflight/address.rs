//! Which addresses may be dialled for a run: looked at after the name was resolved, on the very addresses that are dialled.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use crate::engine::endpoint;

/// Decides which addresses are dialled.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    allow_local: bool,
    api_server: Vec<IpAddr>,
}

/// A user's address leads where no run may go.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{host} leads to {what}, which runs may not reach: name another host")]
pub struct Denied {
    /// The host as it was named.
    pub host: String,
    /// What it leads to.
    pub what: &'static str,
}

impl Policy {
    /// Denies this machine, its neighbours, metadata services, and the API server at `api_server`.
    #[must_use]
    pub fn strict(api_server: Option<&str>) -> Self {
        let api_server = api_server.and_then(|text| text.trim_matches(['[', ']']).parse().ok()).into_iter().collect();
        Self { allow_local: false, api_server }
    }

    /// Denies nothing: for tests, whose servers are on this machine.
    #[must_use]
    pub fn open() -> Self {
        Self { allow_local: true, api_server: Vec::new() }
    }

    /// Whether this machine may be reached.
    #[must_use]
    pub fn allows_local(&self) -> bool {
        self.allow_local
    }

    /// Judges an address by what stands in it: its scheme, its name, and a literal IP in any spelling.
    pub fn check(&self, address: &str) -> Result<(), Denied> {
        if self.allow_local {
            return Ok(());
        }
        let denied = |what| Denied { host: host_of(address), what };
        let Ok(url) = Url::parse(address) else { return Err(denied("no address that can be read")) };
        let ip = match url.host() {
            Some(Host::Ipv4(ip)) => Some(IpAddr::V4(ip)),
            Some(Host::Ipv6(ip)) => Some(IpAddr::V6(ip)),
            _ => None,
        };
        if let Some(what) = ip.and_then(|ip| self.denied(ip)) {
            return Err(denied(what));
        }
        match endpoint::refusal(address, &[]) {
            Some(_) => Err(denied("this machine, a metadata service or the Kubernetes API")),
            None => Ok(()),
        }
    }

    fn denied(&self, ip: IpAddr) -> Option<&'static str> {
        if self.allow_local {
            return None;
        }
        if self.api_server.contains(&ip.to_canonical()) {
            return Some("the Kubernetes API");
        }
        endpoint::denied_address(ip)
    }
}

fn host_of(address: &str) -> String {
    Url::parse(address).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_else(|| "the address".to_owned())
}

/// Resolves names and gives out only addresses that may be dialled; one denied address denies the name, so that a name
/// that leads to several places cannot win by luck.
#[derive(Debug, Clone)]
pub(super) struct CheckingResolver(pub(super) Arc<Policy>);

impl Resolve for CheckingResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = Arc::clone(&self.0);
        Box::pin(async move {
            let addresses: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            if let Some(what) = addresses.iter().find_map(|address| policy.denied(address.ip())) {
                return Err(Denied { host: name.as_str().to_owned(), what }.into());
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_server_is_denied_in_every_spelling_of_its_address() {
        let policy = Policy::strict(Some("10.96.0.1"));
        for address in ["https://10.96.0.1", "https://174063617/", "https://[::ffff:10.96.0.1]", "https://0xa.0x60.0.1:443/x"] {
            assert!(policy.check(address).is_err(), "{address}");
        }
        assert_eq!(policy.check("http://10.96.0.2:9000"), Ok(()));
        assert!(Policy::strict(Some("[fd00::1]")).check("https://[fd00::1]/").is_err());
    }

    #[test]
    fn a_refusal_names_the_host_and_never_a_password() {
        let denied = Policy::strict(None).check("http://u:hunter2@127.0.0.1/x").unwrap_err();
        assert_eq!(denied.to_string(), "127.0.0.1 leads to a loopback address, which runs may not reach: name another host");
    }

    #[tokio::test]
    async fn a_name_that_resolves_to_this_machine_is_denied_where_it_is_dialled() {
        let resolve = |policy| async move { CheckingResolver(Arc::new(policy)).resolve("localhost".parse().unwrap()).await };
        let denied = resolve(Policy::strict(None)).await.err().unwrap();
        let expected = Denied { host: "localhost".into(), what: "a loopback address" };
        assert_eq!(denied.downcast_ref::<Denied>(), Some(&expected));
        assert!(resolve(Policy::open()).await.unwrap().all(|address| address.ip().is_loopback()));
    }
}
