//! Which addresses may be dialled for a URL that a user wrote, and the one HTTP client that obeys.
//!
//! A run's URLs are dialled from the run's own pod, so the cluster's private ranges are fine; what a pod could be
//! lured to is not: the cloud's metadata services, the node's own services, the API server. A host name is resolved
//! once, every address that it has is checked, and the connection goes to a checked address. Redirects are never
//! followed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// Metadata services that do not lie in a link-local range.
const METADATA: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x254)),
];

/// Which addresses may be dialled.
#[derive(Debug, Clone, Default)]
pub struct DialPolicy {
    /// Allows this machine itself: for tests and for people at their own machine, never in a pod.
    pub loopback: bool,
    /// Further addresses that are denied: the API server's.
    pub denied: Vec<IpAddr>,
}

/// A URL that is not dialled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// Only these two are spoken.
    #[error("only http:// and https:// can be dialled")]
    Scheme,
    /// Credentials belong in a Secret.
    #[error("a URL must not hold a user name or a password: put them in a Secret")]
    UserInfo,
    /// There is no host.
    #[error("the URL has no host")]
    Host,
    /// The host, or an address that it resolves to, is denied.
    #[error("{0} is not dialled: it is an address of this machine, of a metadata service, link-local or the API server's")]
    Denied(String),
}

impl DialPolicy {
    /// The policy of a pod: denies the API server that the environment names.
    #[must_use]
    pub fn of_a_pod(environment: &dyn Fn(&str) -> Option<String>) -> Self {
        let address = environment("KUBERNETES_SERVICE_HOST").and_then(|host| host.parse().ok());
        Self { loopback: false, denied: address.into_iter().collect() }
    }

    /// Whether this address may be dialled.
    #[must_use]
    pub fn permits(&self, address: IpAddr) -> bool {
        let address = canonical(address);
        if address.is_loopback() {
            return self.loopback;
        }
        let special = match address {
            IpAddr::V4(v4) => {
                v4.is_unspecified() || v4.octets()[0] == 0 || v4.is_link_local() || v4.is_multicast() || v4.octets()[0] >= 240
            }
            IpAddr::V6(v6) => v6.is_unspecified() || v6.is_multicast() || v6.is_unicast_link_local(),
        };
        !special && !METADATA.contains(&address) && !self.denied.contains(&address)
    }

    /// Checks all of a URL that can be checked without resolving it.
    pub fn check(&self, url: &Url) -> Result<(), DialError> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(DialError::Scheme);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(DialError::UserInfo);
        }
        let address = match url.host() {
            None => return Err(DialError::Host),
            Some(Host::Domain(name)) => return self.check_name(name),
            Some(Host::Ipv4(v4)) => IpAddr::V4(v4),
            Some(Host::Ipv6(v6)) => IpAddr::V6(v6),
        };
        if self.permits(address) { Ok(()) } else { Err(DialError::Denied(address.to_string())) }
    }

    fn check_name(&self, name: &str) -> Result<(), DialError> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let local = name == "localhost" || name.ends_with(".localhost");
        let api_server = name.strip_prefix("kubernetes").is_some_and(|rest| {
            rest.is_empty() || rest == ".default" || rest == ".default.svc" || rest.starts_with(".default.svc.")
        });
        let metadata = name == "metadata" || name == "metadata.google.internal" || name.starts_with("instance-data.");
        if (local && !self.loopback) || api_server || metadata { Err(DialError::Denied(name)) } else { Ok(()) }
    }
}

/// The IPv4 address that an IPv6 address only wraps: mapped, compatible, NAT64 and 6to4.
fn canonical(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let [a, b, c, d, e, f, high, low] = v6.segments();
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match [a, b, c, d, e, f] {
        [0, 0, 0, 0, 0, 0xffff] | [0x64, 0xff9b, 0, 0, 0, 0] => v4(high, low),
        [0, 0, 0, 0, 0, 0] if (high, low) != (0, 0) && (high, low) != (0, 1) => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        _ => address,
    }
}

/// Resolves a name once and refuses it if any of its addresses is denied.
struct CheckedResolver(DialPolicy);

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = self.0.clone();
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let addresses: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            if let Some(address) = addresses.iter().find(|address| !policy.permits(address.ip())) {
                return Err(DialError::Denied(format!("{host} ({})", address.ip())).into());
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
#[error("the HTTP client cannot be made: {0}")]
pub struct ClientError(#[from] reqwest::Error);

/// The client for URLs that users wrote. Check each URL with [`DialPolicy::check`] first: a literal address is not
/// resolved, so the resolver never sees it.
pub fn client(policy: &DialPolicy) -> Result<reqwest::Client, ClientError> {
    let builder = || {
        reqwest::Client::builder()
            .user_agent(concat!("finetune-preflight/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(10))
            .read_timeout(Duration::from_secs(30))
            .dns_resolver(Arc::new(CheckedResolver(policy.clone())))
    };
    // An image without root certificates can still speak plain HTTP.
    builder().build().or_else(|_| builder().tls_certs_only([]).build()).map_err(ClientError)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: &str) -> Result<(), DialError> {
        let policy = DialPolicy::of_a_pod(&|name| (name == "KUBERNETES_SERVICE_HOST").then(|| "10.96.0.1".to_owned()));
        policy.check(&Url::parse(url).unwrap())
    }

    #[test]
    fn services_of_the_cluster_and_of_the_world_are_dialled() {
        for url in ["http://mlflow.finetune:5000", "http://10.96.0.2:9000/x", "https://192.168.1.4", "https://huggingface.co", "http://[fd12::1]:80", "http://172.16.0.1"] {
            assert_eq!(check(url), Ok(()), "{url}");
        }
    }

    #[test]
    fn every_spelling_of_a_denied_address_is_refused() {
        for url in [
            "http://169.254.169.254/latest/meta-data", "http://2852039166/", "http://0xa9fea9fe/", "http://0251.0376.0251.0376/", "http://169.254.43518/",
            "http://[::ffff:169.254.169.254]/", "http://[::ffff:a9fe:a9fe]/", "http://[::169.254.169.254]/", "http://[64:ff9b::a9fe:a9fe]/", "http://[2002:a9fe:a9fe::]/",
            "http://169.254.170.2/", "http://[fe80::1]/", "http://[fd00:ec2::254]/", "http://100.100.100.200/", "http://192.0.0.192/", "http://168.63.129.16/",
            "http://127.0.0.1:10250", "http://127.1/", "http://2130706433/", "http://0x7f.1/", "http://[::1]/", "http://[::ffff:127.0.0.1]/", "http://localhost/", "http://LOCALHOST./", "http://a.localhost/",
            "http://0.0.0.0/", "http://0/", "http://[::]/", "http://224.0.0.1/", "http://255.255.255.255/", "http://[ff02::1]/",
            "http://metadata.google.internal/", "http://metadata/", "http://10.96.0.1/", "http://[::ffff:10.96.0.1]/",
            "https://kubernetes.default.svc/", "https://kubernetes/", "https://kubernetes.default.svc.cluster.local/", "http://①②⑦.⓪.⓪.①/",
        ] {
            assert!(matches!(check(url), Err(DialError::Denied(_))), "{url}: {:?}", check(url));
        }
    }

    #[test]
    fn other_schemes_and_credentials_in_a_url_are_refused() {
        assert_eq!(check("ftp://host/"), Err(DialError::Scheme));
        assert_eq!(check("file:///etc/passwd"), Err(DialError::Scheme));
        assert_eq!(check("http://user@host/"), Err(DialError::UserInfo));
        assert_eq!(check("http://169.254.169.254@host/"), Err(DialError::UserInfo));
    }

    #[tokio::test]
    async fn a_name_that_resolves_to_a_denied_address_is_not_dialled() {
        let denied = CheckedResolver(DialPolicy::default()).resolve("localhost".parse().unwrap()).await;
        assert!(denied.err().unwrap().to_string().contains("not dialled"));
        let allowed = CheckedResolver(DialPolicy { loopback: true, ..DialPolicy::default() }).resolve("localhost".parse().unwrap()).await;
        assert!(allowed.is_ok());
    }
}
