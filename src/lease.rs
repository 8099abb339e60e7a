//! Leader election on one `Lease`: the API server decides races by `resourceVersion`, expiry is measured on our own clock.
//!
//! A leader that did not renew for two thirds of the time to live is told to end its process; others wait for the whole of it.

use std::net::SocketAddr;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease as LeaseObject, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, ResourceExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

/// Annotation with the address at which the leader takes reports.
pub const REPORT_ADDRESS: &str = "finetune.dev/report-address";

/// Why a request for the lease failed.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// The lease cannot be read.
    #[error("get the Lease {name}")]
    Get {
        /// Lease.
        name: String,
        /// Cause.
        source: Box<kube::Error>,
    },
    /// The lease cannot be written.
    #[error("write the Lease {name}")]
    Write {
        /// Lease.
        name: String,
        /// Cause.
        source: Box<kube::Error>,
    },
    /// The API server did not answer in time.
    #[error("the API server took longer than {0:?}")]
    Slow(Duration),
}

/// Why this process leads no longer: it must end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// Somebody else holds the lease.
    #[error("{0} took the lease")]
    Taken(String),
    /// The lease could not be renewed in time.
    #[error("the lease was not renewed for {0:?}")]
    Silent(Duration),
}

/// What one look at the lease came to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Held,
    OfAnother { holder: String, address: Option<SocketAddr> },
    Raced,
}

/// One replica's part in the election.
pub struct Lease {
    leases: Api<LeaseObject>,
    name: String,
    identity: String,
    address: String,
    ttl: Duration,
    seen: Option<(Option<String>, Instant)>,
    renewed: Option<Instant>,
    leader: watch::Sender<Option<SocketAddr>>,
}

impl Lease {
    /// `identity` is unique to this pod; `address` is where this replica takes reports.
    #[must_use]
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str, address: &str, ttl: Duration) -> Self {
        Self {
            leases: Api::namespaced(client, namespace),
            name: name.to_owned(),
            identity: identity.to_owned(),
            address: address.to_owned(),
            ttl,
            seen: None,
            renewed: None,
            leader: watch::Sender::default(),
        }
    }

    /// Where the leader takes reports, while that is another replica.
    #[must_use]
    pub fn leader(&self) -> watch::Receiver<Option<SocketAddr>> {
        self.leader.subscribe()
    }

    /// Waits until this process leads.
    pub async fn acquire(&mut self) {
        let mut holder = None;
        loop {
            match self.attempt().await {
                Ok(Outcome::Held) => return,
                Ok(Outcome::OfAnother { holder: other, .. }) => {
                    if holder.as_ref() != Some(&other) {
                        tracing::info!(holder = other, "waiting for the lease");
                        holder = Some(other);
                    }
                }
                Ok(Outcome::Raced) => {}
                Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "waiting for the lease"),
            }
            sleep(self.ttl / 3).await;
        }
    }

    /// Keeps the lease once it was acquired; returns only when it is lost, and then this process must end.
    pub async fn hold(&mut self) -> Lost {
        loop {
            let renewed = self.renewed.unwrap_or_else(Instant::now);
            sleep_until(renewed + self.ttl / 3).await;
            let limit = self.ttl * 2 / 3;
            match timeout_at(renewed + limit, self.renew()).await {
                Ok(None) => {}
                Ok(Some(other)) => return Lost::Taken(other),
                Err(_) => return Lost::Silent(limit),
            }
        }
    }

    /// Gives the lease up, so that another replica need not wait for it to expire.
    pub async fn release(self) -> Result<(), LeaseError> {
        let give_up = async {
            let Some(mut lease) = self.read().await? else { return Ok(()) };
            if holder_of(&lease) == Some(self.identity.as_str()) {
                lease.spec = Some(LeaseSpec { holder_identity: None, renew_time: Some(now()), ..lease.spec.unwrap_or_default() });
                self.leases.replace(&self.name, &PostParams::default(), &lease).await.map_err(|source| self.write_failed(source))?;
            }
            Ok(())
        };
        timeout(self.ttl / 3, give_up).await.map_err(|_| LeaseError::Slow(self.ttl / 3))?
    }

    /// Until the lease is renewed (`None`) or known to be another's.
    async fn renew(&mut self) -> Option<String> {
        loop {
            match self.attempt().await {
                Ok(Outcome::Held) => return None,
                Ok(Outcome::OfAnother { holder, .. }) => return Some(holder),
                Ok(Outcome::Raced) => {}
                Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "the lease is not renewed yet"),
            }
            sleep(self.ttl / 15).await;
        }
    }

    /// The time counts from before the request: when its answer is late, the lease is as old as the request.
    async fn attempt(&mut self) -> Result<Outcome, LeaseError> {
        let (asked, limit) = (Instant::now(), self.ttl / 6);
        let outcome = timeout(limit, self.take()).await.map_err(|_| LeaseError::Slow(limit))??;
        match &outcome {
            Outcome::Held => {
                self.renewed = Some(asked);
                self.leader.send_replace(None);
            }
            Outcome::OfAnother { address, .. } => {
                self.leader.send_replace(*address);
            }
            Outcome::Raced => {}
        }
        Ok(outcome)
    }

    async fn take(&mut self) -> Result<Outcome, LeaseError> {
        let Some(current) = self.read().await? else {
            let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
            let lease = self.ours(LeaseObject { metadata, spec: None });
            return self.won(self.leases.create(&PostParams::default(), &lease).await);
        };
        let version = current.resource_version();
        if self.seen.as_ref().is_none_or(|(seen, _)| *seen != version) {
            self.seen = Some((version, Instant::now()));
        }
        let unwritten = self.seen.as_ref().map_or(Duration::ZERO, |(_, since)| since.elapsed());
        if let Some(holder) = holder_of(&current)
            && holder != self.identity
            && unwritten < self.ttl
        {
            let address = current.annotations().get(REPORT_ADDRESS).and_then(|address| address.parse().ok());
            return Ok(Outcome::OfAnother { holder: holder.to_owned(), address });
        }
        let lease = self.ours(current);
        self.won(self.leases.replace(&self.name, &PostParams::default(), &lease).await)
    }

    async fn read(&self) -> Result<Option<LeaseObject>, LeaseError> {
        self.leases.get_opt(&self.name).await.map_err(|source| LeaseError::Get { name: self.name.clone(), source: Box::new(source) })
    }

    fn ours(&self, mut lease: LeaseObject) -> LeaseObject {
        let old = lease.spec.take().unwrap_or_default();
        let stays = old.holder_identity.as_deref() == Some(self.identity.as_str());
        lease.annotations_mut().insert(REPORT_ADDRESS.to_owned(), self.address.clone());
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(i32::try_from(self.ttl.as_secs()).unwrap_or(i32::MAX)),
            acquire_time: old.acquire_time.filter(|_| stays).or_else(|| Some(now())),
            renew_time: Some(now()),
            lease_transitions: Some(old.lease_transitions.unwrap_or_default().saturating_add(i32::from(!stays))),
            ..LeaseSpec::default()
        });
        lease
    }

    fn won(&self, written: Result<LeaseObject, kube::Error>) -> Result<Outcome, LeaseError> {
        match written {
            Ok(_) => Ok(Outcome::Held),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(Outcome::Raced),
            Err(source) => Err(self.write_failed(source)),
        }
    }

    fn write_failed(&self, source: kube::Error) -> LeaseError {
        LeaseError::Write { name: self.name.clone(), source: Box::new(source) }
    }
}

fn holder_of(lease: &LeaseObject) -> Option<&str> {
    lease.spec.as_ref()?.holder_identity.as_deref().filter(|holder| !holder.is_empty())
}

fn now() -> MicroTime {
    MicroTime(Timestamp::now())
}

#[cfg(test)]
mod tests;
