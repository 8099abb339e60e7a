//! Which addresses may be dialled for a run: looked at after the name was resolved, on the very addresses that are dialled.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use futures::future::BoxFuture;
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

/// Finds the addresses of a name.
pub(super) type Lookup = fn(String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>>;

/// Asks the system.
pub(super) fn lookup(name: String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
    Box::pin(async move { Ok(tokio::net::lookup_host((name, 0)).await?.collect()) })
}

/// Resolves names and gives out only addresses that may be dialled; one denied address denies the name, so that a name
/// that leads to several places cannot win by luck. What is judged here is what is dialled: there is no second look-up.
#[derive(Debug, Clone)]
pub(super) struct CheckingResolver(pub(super) Arc<Policy>, pub(super) Lookup);

impl Resolve for CheckingResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let Self(policy, lookup) = self.clone();
        Box::pin(async move {
            let addresses = lookup(name.as_str().to_owned()).await?;
            if let Some(what) = addresses.iter().find_map(|address| policy.denied(address.ip())) {
                return Err(Denied { host: name.as_str().to_owned(), what }.into());
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

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
        let resolve = |policy| async move { CheckingResolver(Arc::new(policy), lookup).resolve("localhost".parse().unwrap()).await };
        let denied = resolve(Policy::strict(None)).await.err().unwrap();
        let expected = Denied { host: "localhost".into(), what: "a loopback address" };
        assert_eq!(denied.downcast_ref::<Denied>(), Some(&expected));
        assert!(resolve(Policy::open()).await.unwrap().all(|address| address.ip().is_loopback()));
    }

    /// A name server that lies as its names say.
    #[expect(clippy::needless_pass_by_value, reason = "as a look-up has it")]
    fn lying(name: String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        let addresses: &[&str] = match name.as_str() {
            "one.example" => &["192.0.2.1"],
            "metadata.example" => &["169.254.169.254"],
            "local.example" => &["127.0.0.1"],
            "any.example" => &["0.0.0.0"],
            "mapped.example" => &["::ffff:127.0.0.1"],
            "nat64.example" => &["64:ff9b::a9fe:a9fe"],
            "api.example" => &["10.96.0.1"],
            "mapped-api.example" => &["::ffff:10.96.0.1"],
            "pods.example" => &["fd00:ec2::23"],
            "both.example" => &["192.0.2.1", "127.0.0.1"],
            "other.example" => &["127.0.0.1", "192.0.2.1"],
            _ => &[],
        };
        let addresses = addresses.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), 0)).collect();
        Box::pin(async move { Ok(addresses) })
    }

    #[tokio::test]
    async fn no_name_leads_to_a_denied_address() {
        let resolver = CheckingResolver(Arc::new(Policy::strict(Some("10.96.0.1"))), lying);
        assert!(resolver.resolve("one.example".parse().unwrap()).await.is_ok());
        for name in ["metadata", "local", "any", "mapped", "nat64", "api", "mapped-api", "pods", "both", "other"] {
            let error = resolver.resolve(format!("{name}.example").parse().unwrap()).await.err().unwrap();
            assert!(error.downcast_ref::<Denied>().is_some(), "{name}");
        }
    }

    static ASKED: AtomicUsize = AtomicUsize::new(0);

    /// Leads elsewhere from the second time on.
    fn rebinding(_: String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        let ip = if ASKED.fetch_add(1, Ordering::SeqCst) == 0 { [192, 0, 2, 1] } else { [127, 0, 0, 1] };
        Box::pin(async move { Ok(vec![SocketAddr::from((ip, 0))]) })
    }

    #[tokio::test]
    async fn a_name_that_leads_elsewhere_the_second_time_is_judged_the_second_time() {
        let local = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let resolver = CheckingResolver(Arc::new(Policy::strict(None)), rebinding);
        let client = reqwest::Client::builder().dns_resolver(resolver).connect_timeout(Duration::from_millis(200)).no_proxy();
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = client.build().unwrap();
        let url = format!("http://rebinding.example:{}/", local.local_addr().unwrap().port());
        for expected in [false, true] {
            let error = client.get(&url).send().await.unwrap_err();
            assert_eq!(crate::preflight::dial::denied_in(&error).is_some(), expected, "{error:?}");
        }
        assert!(tokio::time::timeout(Duration::from_millis(100), local.accept()).await.is_err(), "nobody came");
    }
}
