//! Leader election with the API server's own conflicts.

use std::time::{Duration, Instant};

use finetune_operator::lease::{Lease, Lost};
use futures::stream::{FuturesUnordered, StreamExt};
use k8s_openapi::api::coordination::v1::Lease as LeaseObject;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use super::{control_plane, within};

const TTL: Duration = Duration::from_secs(5);
const NAME: &str = "finetune-operator";

fn replica(client: &Client, namespace: &str, identity: &str) -> Lease {
    Lease::new(client.clone(), namespace, NAME, identity, &format!("{identity}:8443"), TTL)
}

async fn stored(client: &Client, namespace: &str) -> LeaseObject {
    Api::namespaced(client.clone(), namespace).get(NAME).await.expect("the lease is there")
}

#[tokio::test]
async fn of_eight_replicas_one_leads_and_after_its_silence_exactly_one_other() {
    let cluster = control_plane();
    let (client, namespace) = (cluster.client().await, cluster.namespace("lease").await);
    let mut waiting: FuturesUnordered<_> = (0..8)
        .map(|n| replica(&client, &namespace, &format!("pod-{n}")))
        .map(|mut lease| async move {
            lease.acquire().await;
            lease
        })
        .collect();
    let first = within(waiting.next()).await.expect("one leads");
    let led = stored(&client, &namespace).await.spec.expect("a lease has a spec");
    let silent = Instant::now();
    let second = within(waiting.next()).await.expect("another leads");
    assert!(silent.elapsed() > TTL * 9 / 10, "not before the first was silent for its time: {:?}", silent.elapsed());
    let leads = stored(&client, &namespace).await.spec.expect("a lease has a spec");
    assert_ne!(led.holder_identity, leads.holder_identity);
    assert_eq!((led.lease_transitions, leads.lease_transitions, leads.lease_duration_seconds), (Some(1), Some(2), Some(5)));
    first.release().await.expect("the first holds nothing, so nothing is given up");
    assert_eq!(stored(&client, &namespace).await.spec.and_then(|spec| spec.holder_identity), leads.holder_identity);
    second.release().await.expect("the second gives up");
    assert_eq!(stored(&client, &namespace).await.spec.and_then(|spec| spec.holder_identity), None);
    within(waiting.next()).await.expect("a third leads");
}

#[tokio::test]
async fn a_leader_that_renews_stays_and_one_that_was_replaced_says_so() {
    let cluster = control_plane();
    let (client, namespace) = (cluster.client().await, cluster.namespace("lease").await);
    let mut leader = replica(&client, &namespace, "pod-0");
    within(leader.acquire()).await;
    let held = tokio::time::timeout(TTL * 3, leader.hold()).await;
    assert!(held.is_err(), "{held:?}");
    let lease = stored(&client, &namespace).await;
    let spec = lease.spec.expect("a lease has a spec");
    assert_eq!((spec.holder_identity.as_deref(), spec.lease_transitions), (Some("pod-0"), Some(1)));
    assert!(spec.renew_time > spec.acquire_time, "{:?} {:?}", spec.renew_time, spec.acquire_time);
    assert_eq!(lease.metadata.annotations, Some([("finetune.dev/report-address".to_owned(), "pod-0:8443".to_owned())].into()));

    let leases: Api<LeaseObject> = Api::namespaced(client.clone(), &namespace);
    let taken = Patch::Merge(json!({"spec": {"holderIdentity": "pod-1"}}));
    leases.patch(NAME, &PatchParams::default(), &taken).await.expect("an administrator may take it");
    assert_eq!(within(leader.hold()).await, Lost::Taken("pod-1".to_owned()));
}

#[tokio::test]
async fn replicas_that_create_the_lease_at_once_make_one_object_and_one_leader() {
    let cluster = control_plane();
    let client = cluster.client().await;
    for round in 0..5 {
        let namespace = cluster.namespace("race").await;
        let long = Duration::from_secs(60);
        let replica = |n| Lease::new(client.clone(), &namespace, NAME, &format!("pod-{n}"), "", long);
        let mut waiting: FuturesUnordered<_> = (0..8).map(replica).map(|mut lease| async move { lease.acquire().await }).collect();
        within(waiting.next()).await.expect("one leads");
        let second = tokio::time::timeout(Duration::from_millis(500), waiting.next()).await;
        assert!(second.is_err(), "round {round}");
        assert_eq!(stored(&client, &namespace).await.spec.and_then(|spec| spec.lease_transitions), Some(1));
    }
}
