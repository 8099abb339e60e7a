//! Oracle Cloud object storage over its native API: the SDK's `config` file says who asks, and the API key signs each request.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use chrono::{DateTime, Utc};
use object_store::ObjectMeta;
use object_store::path::Path;
use reqwest::header::{AUTHORIZATION, DATE};
use reqwest::{Method, RequestBuilder};
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;
use tokio::sync::OnceCell;
use url::{Position, Url};

use super::dial::{Dialer, Login, MAX_ANSWER_BYTES, Silence, host_of, received};
use super::mounted::{self, profiles};
use super::plan::SecretMount;
use super::remote::{Page, Protocol, RemoteError, time};

/// Who asks, where, and with which key.
pub(super) struct Identity {
    /// `tenancy/user/fingerprint`.
    id: String,
    region: String,
    namespace: Option<String>,
    key: RsaKeyPair,
}

/// Which key of the Secret cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unusable {
    /// `config` has no default section that says who asks and where.
    Config,
    /// `key_file` is no RSA key in PEM, or is protected by a passphrase.
    Key,
}

impl Identity {
    /// The identity of a Secret of kind oci. Whatever `key_file` in its `config` says, the key is the Secret's own `key_file`.
    pub(super) fn of(secret: &SecretMount) -> Result<Self, Unusable> {
        let all = profiles(&mounted::value(secret, "config").unwrap_or_default());
        let entries = all.get("DEFAULT").cloned().unwrap_or_default();
        let plain = |text: &&String| text.len() <= 256 && text.chars().all(|c| c.is_ascii_alphanumeric() || "._:-".contains(c));
        let entry = |name: &str| entries.get(name).filter(plain).cloned().ok_or(Unusable::Config);
        let id = [entry("tenancy")?, entry("user")?, entry("fingerprint")?].join("/");
        // The region becomes part of the host's name.
        let region = entry("region")?;
        if !region.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
            return Err(Unusable::Config);
        }
        let pem = mounted::value(secret, "key_file").ok_or(Unusable::Key)?;
        Ok(Self { id, region, namespace: entry("namespace").ok(), key: key(&pem).ok_or(Unusable::Key)? })
    }

    fn authorization(&self, method: &Method, url: &Url, date: &str) -> Option<String> {
        let target = &url[Position::BeforePath..Position::AfterQuery];
        let host = &url[Position::BeforeHost..Position::AfterPort];
        let text = format!("date: {date}\n(request-target): {} {target}\nhost: {host}", method.as_str().to_ascii_lowercase());
        let mut signature = vec![0; self.key.public().modulus_len()];
        self.key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature).ok()?;
        let (id, signature) = (&self.id, BASE64_STANDARD.encode(signature));
        Some(format!(r#"Signature algorithm="rsa-sha256",headers="date (request-target) host",keyId="{id}",signature="{signature}",version="1""#))
    }
}

fn key(pem: &str) -> Option<RsaKeyPair> {
    match PrivateKeyDer::from_pem_slice(pem.as_bytes()).ok()? {
        PrivateKeyDer::Pkcs8(der) => RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).ok(),
        PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()).ok(),
        _ => None,
    }
}

/// A bucket.
pub(super) struct Bucket {
    identity: Identity,
    name: String,
    namespace: OnceCell<String>,
}

impl std::fmt::Debug for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bucket({})", self.name)
    }
}

impl Bucket {
    pub(super) fn new(identity: Identity, name: &str) -> Self {
        let namespace = OnceCell::new_with(identity.namespace.clone());
        Self { identity, name: name.to_owned(), namespace }
    }

    fn at(&self, parts: &[&str]) -> Url {
        let host = format!("https://objectstorage.{}.oraclecloud.com/", self.identity.region);
        // A region is letters, digits and dashes.
        let mut url = Url::parse(&host).unwrap_or_else(|_| unreachable!("{host} is an address"));
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.clear().extend(parts);
        }
        url
    }

    fn in_bucket(&self, parts: &[&str]) -> Url {
        let namespace = self.namespace.get().map(String::as_str).unwrap_or_default();
        self.at(&[&["n", namespace, "b", &self.name, "o"], parts].concat())
    }
}

#[async_trait::async_trait]
impl Protocol for Bucket {
    const NAME: &'static str = "oci";

    /// The namespace is the tenancy's: the service tells it.
    async fn ready(&self, dialer: &Dialer) -> Result<(), RemoteError> {
        let ask = || async {
            let url = self.at(&["n"]);
            let once = || async { received(dialer.patient(self.request(dialer, Method::GET, &url)?), host_of(&url), MAX_ANSWER_BYTES).await };
            let (status, _, bytes) = dialer.retried(once, |(status, ..)| *status).await?;
            if status != 200 {
                return Err(RemoteError::Refused { status, code: None });
            }
            serde_json::from_slice::<String>(&bytes).map_err(|_| RemoteError::Nonsense)
        };
        self.namespace.get_or_try_init(ask).await.map(|_| ())
    }

    fn object(&self, path: &Path) -> Url {
        // A slash within a name is not one of the address.
        self.in_bucket(&[path.as_ref()])
    }

    fn target(&self, path: &Path, _only_new: bool) -> Url {
        self.object(path)
    }

    fn listing(&self, folder: &Path, page: Option<&str>) -> Url {
        let mut url = self.in_bucket(&[]);
        let prefix = if folder.as_ref().is_empty() { String::new() } else { format!("{folder}/") };
        url.query_pairs_mut()
            .extend_pairs([("prefix", prefix.as_str()), ("fields", "name,size,etag,timeModified"), ("limit", "1000")])
            .extend_pairs(page.map(|page| ("start", page)));
        url
    }

    fn page(&self, folder: &Path, body: &Value) -> Option<Page> {
        let mut page = Page { next: body["nextStartWith"].as_str().map(str::to_owned), ..Page::default() };
        for entry in body.get("objects")?.as_array()? {
            let name = entry["name"].as_str()?;
            // What marks a folder is no object, and a name that is no path cannot be read.
            let Some(location) = Path::parse(name).ok().filter(|path| !name.ends_with('/') && path.prefix_matches(folder)) else { continue };
            let e_tag = entry["etag"].as_str().map(str::to_owned);
            page.objects.push(ObjectMeta {
                location,
                last_modified: time(&entry["timeModified"]),
                size: entry["size"].as_u64()?,
                e_tag,
                version: None,
            });
        }
        Some(page)
    }

    fn request(&self, dialer: &Dialer, method: Method, url: &Url) -> Result<RequestBuilder, Silence> {
        let now: DateTime<Utc> = std::time::SystemTime::now().into();
        let date = now.format("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let authorization = self.identity.authorization(&method, url, &date).ok_or(Silence::Address)?;
        Ok(dialer.request(method, url, &Login::Nobody)?.header(DATE, date).header(AUTHORIZATION, authorization))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::fake::oci::{CONFIG, KEY};

    fn secret(config: &str, key: &str) -> (tempfile::TempDir, SecretMount) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config"), config).unwrap();
        std::fs::write(folder.path().join("key_file"), key).unwrap();
        let path = folder.path().to_str().unwrap().to_owned();
        (folder, SecretMount { name: "s".into(), kind: crate::api::secret_ref::SecretKind::Oci, key: None, profile: None, path })
    }

    #[test]
    fn requests_are_signed_as_oracles_own_sdk_signs_them() {
        // Written by the SDK for Python, 2.189.0: a request, and its header, in turn.
        let lines: Vec<_> = include_str!("fake/oci-signatures.txt").lines().collect();
        let (_folder, secret) = secret(CONFIG, KEY);
        let identity = Identity::of(&secret).unwrap_or_else(|unusable| panic!("{unusable:?}"));
        assert_eq!(lines.len(), 4);
        for pair in lines.chunks(2) {
            let (method, url) = pair[0].split_once(' ').unwrap();
            let (method, url) = (method.parse().unwrap(), Url::parse(url).unwrap());
            assert_eq!(identity.authorization(&method, &url, "Thu, 01 Jan 2026 00:00:00 GMT").as_deref(), Some(pair[1]));
        }
    }

    #[test]
    fn a_secret_that_cannot_sign_says_what_it_lacks() {
        let of = |config: &str, key: &str| {
            let (_folder, secret) = secret(config, key);
            Identity::of(&secret).err()
        };
        assert_eq!(of(CONFIG, KEY), None);
        assert_eq!(of(&CONFIG.replace("user=", "usr="), KEY), Some(Unusable::Config));
        assert_eq!(of(&CONFIG.replace("eu-frankfurt-1", "evil.example/"), KEY), Some(Unusable::Config));
        assert_eq!(of(&CONFIG.replace("eu-frankfurt-1", "a.b"), KEY), Some(Unusable::Config));
        assert_eq!(of(&CONFIG.replace("DEFAULT", "OTHER"), KEY), Some(Unusable::Config));
        assert_eq!(of(CONFIG, "no key"), Some(Unusable::Key));
        let protected = KEY.replacen('\n', "\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\n", 1);
        assert_eq!(of(CONFIG, &protected), Some(Unusable::Key));
    }
}
