//! A standby's way to the replica that leads: one hop, the same path and token; only the answer's meaning comes back.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::HeaderName;
use reqwest::Client;
use reqwest::redirect::Policy;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::watch;
use tokio::time::Instant;

use super::answer::Answer;
use super::tls::{self, TlsError};

/// Marks a post that another replica handed on, so that it goes no further.
pub(crate) const FORWARDED: HeaderName = HeaderName::from_static("x-finetune-forwarded");

const LIMIT: Duration = Duration::from_secs(5);
/// The authority's file may change while the operator runs.
const CLIENT_AGE: Duration = Duration::from_secs(10);

/// Where the replica that leads takes reports.
#[derive(Clone, Debug)]
pub struct Leader {
    /// Name in its certificate: the host of the report URL.
    pub host: String,
    /// Its own address, while another replica leads.
    pub address: watch::Receiver<Option<SocketAddr>>,
}

#[derive(Debug, thiserror::Error)]
enum ForwardError {
    #[error("trust the report endpoint's authority")]
    Authority(#[from] TlsError),
    #[error("trust the report endpoint's authority")]
    Trust(#[from] rustls::Error),
    #[error("post to the replica that leads")]
    Post(#[from] reqwest::Error),
}

/// Hands posts on to the leader.
pub(crate) struct Forward {
    leader: Leader,
    cert_dir: PathBuf,
    client: Mutex<Option<(SocketAddr, Instant, Client)>>,
}

impl Forward {
    pub(crate) fn new(leader: Leader, cert_dir: PathBuf) -> Self {
        Self { leader, cert_dir, client: Mutex::default() }
    }

    /// What the leader answers; `NotYet` when there is none or it cannot be reached.
    pub(crate) async fn send(&self, path: &str, token: &str, body: Vec<u8>) -> Answer {
        let Some(address) = *self.leader.address.borrow() else { return Answer::NotYet };
        match self.post(address, path, token, body).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::warn!(leader = %address, error = &error as &dyn std::error::Error, "a report could not be handed on");
                Answer::NotYet
            }
        }
    }

    async fn post(&self, address: SocketAddr, path: &str, token: &str, body: Vec<u8>) -> Result<Answer, ForwardError> {
        let client = self.client(address).await?;
        let url = format!("https://{}:{}{path}", self.leader.host, address.port());
        let sent = client.post(url).bearer_auth(token).header(FORWARDED, "1").body(body).send().await?;
        Ok(Answer::of(sent.status()))
    }

    async fn client(&self, address: SocketAddr) -> Result<Client, ForwardError> {
        let known = self.client.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((_, _, client)) = known.filter(|(to, since, _)| *to == address && since.elapsed() < CLIENT_AGE) {
            return Ok(client);
        }
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(tls::authority(&self.cert_dir).await?.as_bytes()).flatten() {
            roots.add(certificate)?;
        }
        let trust = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let builder = Client::builder().tls_backend_preconfigured(trust).https_only(true).no_proxy().redirect(Policy::none()).timeout(LIMIT);
        let client = builder.resolve(&self.leader.host, address).build()?;
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = Some((address, Instant::now(), client.clone()));
        Ok(client)
    }
}
