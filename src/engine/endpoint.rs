//! Which hosts a run may name as an endpoint: never this machine, its neighbours or a metadata service unless the admin lists it. Pure.
//!
//! Names are not resolved here: the operator dials nothing. What an allowed name resolves to is looked at where it is dialled.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

/// Metadata services outside of the link-local range.
const METADATA_V4: [[u8; 4]; 3] = [[100, 100, 100, 200], [168, 63, 129, 16], [192, 0, 0, 192]];
/// Names that lead to metadata services or to the cluster's own API.
const DENIED_NAMES: [&str; 9] = [
    "localhost",
    "metadata",
    "metadata.google.internal",
    "metadata.goog",
    "instance-data",
    "instance-data.ec2.internal",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
];

/// Why `address` must not be dialled, as the end of a sentence; `None` when it may. `allowed` are hosts, `host:port` or
/// `*.domain`; empty means every host that is not denied.
#[must_use]
pub fn refusal(address: &str, allowed: &[String]) -> Option<String> {
    let Ok(url) = Url::parse(address) else { return Some("is not an address: write http://host or https://host".to_owned()) };
    if !matches!(url.scheme(), "http" | "https") {
        return Some("must start with http:// or https://".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Some("holds a user name or a password: put credentials in a Secret".to_owned());
    }
    let Some(host) = url.host() else { return Some("names no host".to_owned()) };
    let name = host.to_string().trim_end_matches('.').to_ascii_lowercase();
    if allowed.iter().any(|entry| listed(entry, &name, url.port_or_known_default())) {
        return None;
    }
    if let Some(what) = denied(&host, &name) {
        return Some(format!(
            "names {name}, {what}, which runs may not reach: name another host, or ask the administrator to add it to allowedEndpoints"
        ));
    }
    (!allowed.is_empty()).then(|| {
        format!(
            "names {name}, which is not among the hosts that the administrator allows ({}): name one of them, or ask for it to be added",
            allowed.join(", ")
        )
    })
}

fn listed(entry: &str, name: &str, port: Option<u16>) -> bool {
    let entry = entry.trim().to_ascii_lowercase();
    if entry == name {
        return true;
    }
    match (entry.strip_prefix("*."), entry.rsplit_once(':')) {
        (Some(domain), _) => name.strip_suffix(domain).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
        (None, Some((host, number))) => host == name && number.parse().ok() == port,
        (None, None) => false,
    }
}

fn denied(host: &Host<&str>, name: &str) -> Option<&'static str> {
    match host {
        Host::Domain(_) => denied_name(name),
        Host::Ipv4(ip) => denied_v4(*ip),
        Host::Ipv6(ip) => denied_v6(*ip),
    }
}

fn denied_name(name: &str) -> Option<&'static str> {
    let local = name == "localhost" || name.ends_with(".localhost") || name.starts_with("kubernetes.default.svc.");
    (local || DENIED_NAMES.contains(&name)).then_some("a name of this machine, of a metadata service or of the Kubernetes API")
}

/// What a denied address is; `None` when it may be dialled.
#[must_use]
pub fn denied_address(ip: IpAddr) -> Option<&'static str> {
    match ip {
        IpAddr::V4(ip) => denied_v4(ip),
        IpAddr::V6(ip) => denied_v6(ip),
    }
}

fn denied_v4(ip: Ipv4Addr) -> Option<&'static str> {
    let [a, ..] = ip.octets();
    match ip {
        _ if ip.is_loopback() || a == 0 => Some("a loopback address"),
        _ if ip.is_link_local() => Some("a link-local address, where metadata services are"),
        _ if METADATA_V4.contains(&ip.octets()) => Some("the address of a metadata service"),
        _ if a >= 224 => Some("a multicast or reserved address"),
        _ => None,
    }
}

fn denied_v6(ip: Ipv6Addr) -> Option<&'static str> {
    let embedded = |high: u16, low: u16| {
        let [[a, b], [c, d]] = [high, low].map(u16::to_be_bytes);
        denied_v4(Ipv4Addr::new(a, b, c, d))
    };
    match ip.segments() {
        _ if ip.is_loopback() || ip.is_unspecified() => Some("a loopback address"),
        _ if ip.is_unicast_link_local() => Some("a link-local address"),
        _ if ip.is_multicast() => Some("a multicast address"),
        // Several services of one cloud: the instance's, the time, the pods' identity.
        [0xfd00, 0xec2, ..] | [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254] => Some("the address of a metadata service"),
        // An IPv4 address in IPv6: mapped, compatible, translated, NAT64, 6to4, and Teredo, which turns the client's bits around.
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => embedded(high, low),
        [0x2001, 0, .., high, low] => embedded(!high, !low),
        // NAT64 with a prefix of the network's own.
        [0x64, 0xff9b, 1, ..] => Some("an address that is translated to one that is not known"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(address: &str, allowed: &[&str]) -> bool {
        refusal(address, &allowed.iter().map(|&entry| entry.to_owned()).collect::<Vec<_>>()).is_some()
    }

    #[test]
    fn no_spelling_of_a_denied_address_passes() {
        for address in [
            "http://127.0.0.1",
            "http://127.1:9000",
            "http://2130706433",
            "http://0x7f.0.0.1",
            "http://0177.0.0.1",
            "http://0",
            "http://0.0.0.0",
            "http://localhost",
            "http://LOCALHOST.:80",
            "http://s3.localhost",
            "http://169.254.169.254/latest/meta-data",
            "http://2852039166",
            "http://0xa9fea9fe",
            "http://[::1]",
            "http://[::]",
            "http://[fe80::1]",
            "http://[::ffff:169.254.169.254]",
            "http://[::ffff:7f00:1]",
            "http://[::127.0.0.1]",
            "http://[64:ff9b::a9fe:a9fe]",
            "http://[2002:7f00:1::]",
            "http://[fd00:ec2::254]",
            "http://[fd20:ce::254]",
            "http://[ff02::1]",
            "http://100.100.100.200",
            "http://192.0.0.192",
            "http://168.63.129.16",
            "http://224.0.0.1",
            "http://255.255.255.255",
            "http://metadata.google.internal",
            "http://metadata.google.internal.",
            "http://metadata",
            "http://instance-data.ec2.internal",
            "https://kubernetes.default.svc",
            "https://kubernetes.default.svc.cluster.local",
            "https://kubernetes",
            "http://good.example@169.254.169.254",
            "http://user:password@good.example",
            "http://%31%32%37.0.0.1",
            "ftp://good.example",
            "file:///etc/passwd",
            "good.example",
            "http://",
        ] {
            assert!(refused(address, &[]), "{address}");
        }
    }

    #[test]
    fn other_hosts_pass_while_the_admin_lists_none() {
        for address in ["http://s3.demo-services.svc:9000", "https://mlflow.example.com/path", "http://10.0.0.7:9000", "http://[fd12::1]:5000"] {
            assert_eq!(refusal(address, &[]), None, "{address}");
        }
    }

    #[test]
    fn a_list_admits_what_it_names_and_nothing_else() {
        let allowed = ["s3.example.com", "mlflow.example.com:5000", "*.trusted.example", "127.0.0.1"];
        for address in ["https://S3.example.com", "http://mlflow.example.com:5000", "https://a.b.trusted.example", "http://127.1:8080"] {
            assert!(!refused(address, &allowed), "{address}");
        }
        for address in
            ["http://mlflow.example.com", "https://trusted.example", "https://nottrusted.example", "https://x.s3.example.com", "http://127.0.0.2"]
        {
            assert!(refused(address, &allowed), "{address}");
        }
    }

    #[test]
    fn a_password_is_never_repeated() {
        let sentence = refusal("http://user:hunter2@good.example", &[]).unwrap();
        assert_eq!(sentence, "holds a user name or a password: put credentials in a Secret");
    }
}
