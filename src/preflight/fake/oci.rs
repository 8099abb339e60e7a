//! Oracle's object storage as its published REST API has it; every request must be signed by the key of the tests.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::response::Response;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ring::signature::{KeyPair, RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey};
use rustls::pki_types::PrivatePkcs1KeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::json;
use url::Url;

use super::{Seen, Server, answer, json_answer};

pub(in crate::preflight) const HOST: &str = "objectstorage.eu-frankfurt-1.oraclecloud.com";
/// An RSA key that was made for the tests and opens nothing.
pub(in crate::preflight) const KEY: &str = include_str!("oci-key.pem");
/// Its `key_file` is that of another machine, as users have it.
pub(in crate::preflight) const CONFIG: &str =
    "[DEFAULT]\nuser=ocid1.user.oc1..u\nfingerprint=aa:bb\ntenancy=ocid1.tenancy.oc1..t\nregion=eu-frankfurt-1\nkey_file=/home/me/.oci/key.pem\n";
/// Objects on a page, whatever is asked for.
const PAGE: usize = 2;

/// The content of the one bucket, `data`.
pub(in crate::preflight) type Objects = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

pub(in crate::preflight) async fn store() -> (Server, Objects) {
    let objects = Objects::default();
    let held = Arc::clone(&objects);
    (Server::answering(move |seen| respond(&mut held.lock().unwrap(), seen)).await, objects)
}

fn is_signed(seen: &Seen) -> bool {
    let header = |name: &str| seen.headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
    let authorization = header("authorization");
    let field = |name: &str| authorization.split_once(&format!("{name}=\"")).and_then(|(_, rest)| rest.split_once('"')).map(|(value, _)| value);
    if !authorization.starts_with("Signature ") || field("keyId") != Some("ocid1.tenancy.oc1..t/ocid1.user.oc1..u/aa:bb") {
        return false;
    }
    let lines = field("headers").unwrap_or_default().split(' ').map(|name| match name {
        "(request-target)" => format!("{name}: {} {}", seen.method.to_lowercase(), seen.path),
        _ => format!("{name}: {}", header(name)),
    });
    let text = lines.collect::<Vec<_>>().join("\n");
    let signature = BASE64_STANDARD.decode(field("signature").unwrap_or_default()).unwrap_or_default();
    ["date: ", "(request-target): ", "host: "].iter().all(|name| text.contains(name)) && has_signed(&text, &signature)
}

/// Whether the key of the tests signed the text.
pub(in crate::preflight) fn has_signed(text: &str, signature: &[u8]) -> bool {
    let key = PrivatePkcs1KeyDer::from_pem_slice(KEY.as_bytes()).unwrap();
    let key = RsaKeyPair::from_der(key.secret_pkcs1_der()).unwrap();
    let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key.public_key().as_ref());
    key.verify(text.as_bytes(), signature).is_ok()
}

fn error(status: u16, code: &str) -> Response {
    json_answer(status, &json!({"code": code, "message": "no"}))
}

fn respond(objects: &mut BTreeMap<String, Vec<u8>>, seen: &Seen) -> Response {
    if !is_signed(seen) {
        return error(401, "NotAuthenticated");
    }
    let url = Url::parse(&format!("https://{HOST}{}", seen.path)).unwrap();
    let decoded = |part: &str| url::form_urlencoded::parse(format!("x={part}").as_bytes()).next().unwrap().1.into_owned();
    let parts: Vec<String> = url.path_segments().unwrap().map(decoded).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let query: BTreeMap<String, String> = url.query_pairs().into_owned().collect();
    match (seen.method.as_str(), parts.as_slice()) {
        ("GET", ["n"]) => json_answer(200, &json!("my-namespace")),
        (_, ["n", "my-namespace", "b", bucket, ..]) if *bucket != "data" => error(404, "BucketNotFound"),
        ("GET", ["n", "my-namespace", "b", "data", "o"]) => {
            let start = query.get("start").cloned().unwrap_or_default();
            let found: Vec<_> = objects.iter().filter(|(name, _)| name.starts_with(&query["prefix"]) && **name >= start).collect();
            let page = found
                .iter()
                .take(PAGE)
                .map(|(name, bytes)| json!({"name": name, "size": bytes.len(), "etag": "e", "timeModified": "2026-01-01T00:00:00.000Z"}));
            json_answer(200, &json!({"objects": page.collect::<Vec<_>>(), "nextStartWith": found.get(PAGE).map(|(name, _)| name)}))
        }
        ("PUT", ["n", "my-namespace", "b", "data", "o", name]) => {
            if seen.headers.get("if-none-match").is_some_and(|value| value == "*") && objects.contains_key(*name) {
                return error(412, "IfNoneMatchFailed");
            }
            objects.insert((*name).to_owned(), seen.body.clone());
            answer(200, "")
        }
        ("DELETE", ["n", "my-namespace", "b", "data", "o", name]) => {
            if objects.remove(*name).is_some() {
                answer(204, "")
            } else {
                error(404, "ObjectNotFound")
            }
        }
        ("GET" | "HEAD", ["n", "my-namespace", "b", "data", "o", name]) => match objects.get(*name) {
            Some(bytes) => super::content(seen, bytes),
            None if seen.method == "HEAD" => answer(404, ""),
            None => error(404, "ObjectNotFound"),
        },
        _ => error(404, "NotAuthorizedOrNotFound"),
    }
}
