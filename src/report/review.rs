//! `PodTokens`: asks the API server whose a token is and which Job the pod belongs to. Reads only, remembers for a while.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::answer::Answer;
use super::auth::{Authenticate, Sender};
use super::limit::Limiter;

/// A pod that is gone keeps its word this long; what it may report for is judged anew at each post.
const PROVED: Duration = Duration::from_secs(300);
/// A refused token is not asked about again for this long.
const REFUSED: Duration = Duration::from_secs(10);
const REMEMBERED: usize = 4096;
const ASKING_AT_ONCE: usize = 32;
const ASK_LIMIT: Duration = Duration::from_secs(5);
/// Unknown tokens a second and at once from one address: many pods may share the address of their node.
const UNKNOWN_PER_SECOND: u32 = 10;
const UNKNOWN_AT_ONCE: u32 = 100;

const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// Why the API server did not answer. Never holds a token.
#[derive(Debug, thiserror::Error)]
enum ReviewError {
    #[error("create a TokenReview")]
    Review(#[source] kube::Error),
    #[error("get Pod {namespace}/{name}")]
    Pod {
        namespace: String,
        name: String,
        #[source]
        source: kube::Error,
    },
    #[error("the API server took longer than {ASK_LIMIT:?}")]
    Slow,
}

/// Proves senders by `TokenReview` and by the owner of their pod.
pub struct PodTokens {
    client: Client,
    audience: String,
    proved: Remembered<Sender>,
    refused: Remembered<Answer>,
    asking: Semaphore,
    unknown: Limiter<IpAddr>,
}

impl PodTokens {
    /// Accepts tokens that were made for `audience`.
    #[must_use]
    pub fn new(client: Client, audience: &str) -> Self {
        Self {
            client,
            audience: audience.to_owned(),
            proved: Remembered::new(REMEMBERED, PROVED),
            refused: Remembered::new(REMEMBERED, REFUSED),
            asking: Semaphore::new(ASKING_AT_ONCE),
            unknown: Limiter::new(UNKNOWN_PER_SECOND, UNKNOWN_AT_ONCE, REMEMBERED),
        }
    }

    async fn ask(&self, token: &str) -> Result<Result<Sender, Answer>, ReviewError> {
        let _asking = self.asking.acquire().await;
        let Some(bearer) = self.review(token).await? else { return Ok(Err(Answer::Unauthenticated)) };
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &bearer.namespace);
        let pod = pods.get_metadata_opt(&bearer.pod).await.map_err(|source| ReviewError::Pod {
            namespace: bearer.namespace.clone(),
            name: bearer.pod.clone(),
            source,
        })?;
        let job = pod.filter(|pod| pod.uid().as_ref() == Some(&bearer.pod_uid)).and_then(|pod| job_of(pod.owner_references()));
        let Some((job_name, job_uid)) = job else { return Ok(Err(Answer::Forbidden)) };
        Ok(Ok(Sender { namespace: bearer.namespace, pod_uid: bearer.pod_uid, job_name, job_uid }))
    }

    async fn review(&self, token: &str) -> Result<Option<Bearer>, ReviewError> {
        let spec = TokenReviewSpec { token: Some(token.to_owned()), audiences: Some(vec![self.audience.clone()]) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let review = reviews.create(&PostParams::default(), &review).await.map_err(ReviewError::Review)?;
        Ok(review.status.and_then(|status| bearer(status, &self.audience)))
    }
}

impl Authenticate for PodTokens {
    async fn authenticate(&self, token: &str, address: IpAddr) -> Result<Sender, Answer> {
        let hash: TokenHash = Sha256::digest(token).into();
        if let Some(sender) = self.proved.get(&hash) {
            return Ok(sender);
        }
        if let Some(answer) = self.refused.get(&hash) {
            return Err(answer);
        }
        if !self.unknown.allow(&address) {
            return Err(Answer::TooMany);
        }
        let asked = match tokio::time::timeout(ASK_LIMIT, self.ask(token)).await {
            Ok(asked) => asked,
            Err(_) => Err(ReviewError::Slow),
        };
        match asked {
            Ok(Ok(sender)) => {
                self.proved.insert(hash, sender.clone());
                Ok(sender)
            }
            Ok(Err(answer)) => {
                self.refused.insert(hash, answer);
                Err(answer)
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "a report's token could not be checked");
                Err(Answer::Unavailable)
            }
        }
    }
}

/// The pod that a token was made for.
struct Bearer {
    namespace: String,
    pod: String,
    pod_uid: String,
}

/// A server that does not know audiences leaves them out, and its yes is worth nothing.
fn bearer(status: TokenReviewStatus, audience: &str) -> Option<Bearer> {
    let ours = status.audiences.unwrap_or_default().iter().any(|one| one == audience);
    if status.authenticated != Some(true) || status.error.is_some_and(|error| !error.is_empty()) || !ours {
        return None;
    }
    let user = status.user?;
    let username = user.username?;
    let (namespace, _) = username.strip_prefix(SERVICE_ACCOUNT)?.split_once(':')?;
    let mut extra = user.extra?;
    let mut only = |key: &str| match extra.remove(key)?.as_mut_slice() {
        [value] if !value.is_empty() => Some(std::mem::take(value)),
        _ => None,
    };
    Some(Bearer { namespace: namespace.to_owned(), pod: only(POD_NAME)?, pod_uid: only(POD_UID)? })
}

fn job_of(owners: &[OwnerReference]) -> Option<(String, String)> {
    let controller = owners.iter().find(|owner| owner.controller == Some(true))?;
    (controller.kind == "Job" && controller.api_version == "batch/v1").then(|| (controller.name.clone(), controller.uid.clone()))
}

type TokenHash = [u8; 32];

/// Values by token, each for the same time, of bounded number. Holds hashes, so that a memory dump yields no token.
struct Remembered<V> {
    capacity: usize,
    time: Duration,
    values: Mutex<HashMap<TokenHash, (Instant, V)>>,
}

impl<V: Clone> Remembered<V> {
    fn new(capacity: usize, time: Duration) -> Self {
        Self { capacity, time, values: Mutex::default() }
    }

    fn get(&self, hash: &TokenHash) -> Option<V> {
        let values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        values.get(hash).filter(|(since, _)| since.elapsed() < self.time).map(|(_, value)| value.clone())
    }

    fn insert(&self, hash: TokenHash, value: V) {
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        if values.len() >= self.capacity {
            values.retain(|_, (since, _)| since.elapsed() < self.time);
        }
        if values.len() >= self.capacity
            && let Some(oldest) = values.iter().min_by_key(|(_, (since, _))| *since).map(|(hash, _)| *hash)
        {
            values.remove(&oldest);
        }
        values.insert(hash, (Instant::now(), value));
    }
}

#[cfg(test)]
mod tests;
