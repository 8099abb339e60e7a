//! The serving certificate: read from the mounted Secret, and again whenever its files change.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum_server::tls_rustls::RustlsConfig;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Certificate chain, as a `kubernetes.io/tls` Secret names it.
pub const CERTIFICATE: &str = "tls.crt";
/// Private key.
pub const KEY: &str = "tls.key";
/// Certificates that a client is to trust.
pub const AUTHORITY: &str = "ca.crt";

/// Why the certificate cannot be used. Never holds a key.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// File.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// A file holds no PEM of the right kind.
    #[error("{} holds no usable PEM", path.display())]
    Pem {
        /// File.
        path: PathBuf,
    },
    /// Certificate and key do not fit each other, or not this library.
    #[error("use {CERTIFICATE} with {KEY}")]
    Use(#[source] rustls::Error),
}

/// The files as they are now.
#[derive(PartialEq, Eq)]
pub(crate) struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Files {
    pub(crate) async fn read(dir: &Path) -> Result<Self, TlsError> {
        Ok(Self { certificate: read(dir.join(CERTIFICATE)).await?, key: read(dir.join(KEY)).await? })
    }

    pub(crate) fn config(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let pem = |name: &str| TlsError::Pem { path: name.into() };
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&self.certificate).collect::<Result<_, _>>().map_err(|_| pem(CERTIFICATE))?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|_| pem(KEY))?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Use)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(TlsError::Use)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

/// The certificates that a trainer is to trust, as PEM: what goes into `ca.crt` of each run.
pub async fn authority(dir: &Path) -> Result<String, TlsError> {
    let path = dir.join(AUTHORITY);
    let pem = read(path.clone()).await?;
    let usable = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>().is_ok_and(|found| !found.is_empty());
    String::from_utf8(pem).ok().filter(|_| usable).ok_or(TlsError::Pem { path })
}

/// Puts changed files into use, for ever. Files that cannot be used leave the ones before in use: a Secret that is being
/// replaced may show a new certificate with an old key for a moment.
pub(crate) async fn reload(dir: PathBuf, mut in_use: Files, config: RustlsConfig, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        let changed = match Files::read(&dir).await {
            Ok(files) if files == in_use => continue,
            Ok(files) => files.config().map(|loaded| (files, loaded)),
            Err(error) => Err(error),
        };
        match changed {
            Ok((files, loaded)) => {
                config.reload_from_config(loaded);
                in_use = files;
                tracing::info!("the report endpoint uses a new certificate");
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the report endpoint keeps its certificate: the files cannot be used");
            }
        }
    }
}

async fn read(path: PathBuf) -> Result<Vec<u8>, TlsError> {
    tokio::fs::read(&path).await.map_err(|source| TlsError::Read { path, source })
}
