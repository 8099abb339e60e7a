//! Elections before an API server that checks `resourceVersion`, on a clock that the tests move.

use std::sync::{Arc, Mutex};

use axum::http::{Method, Request, Response};
use kube::client::Body;
use serde_json::{Value, json};

use super::*;

const TTL: Duration = Duration::from_secs(15);

#[derive(Default)]
struct Cluster {
    lease: Option<Value>,
    version: u64,
    writes: usize,
    broken: bool,
    hanging: bool,
}

type Shared = Arc<Mutex<Cluster>>;

fn failure(code: u16) -> (u16, Value) {
    let reason = match code {
        404 => "NotFound",
        409 => "Conflict",
        _ => "InternalError",
    };
    (code, json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": reason, "code": code, "message": "no"}))
}

impl Cluster {
    fn answer(&mut self, method: &Method, body: &[u8]) -> (u16, Value) {
        if self.broken {
            return failure(500);
        }
        if *method == Method::GET {
            return self.lease.clone().map_or_else(|| failure(404), |lease| (200, lease));
        }
        let mut sent: Value = serde_json::from_slice(body).unwrap();
        let current = self.lease.as_ref().map(|lease| lease["metadata"]["resourceVersion"].clone());
        let fits = if *method == Method::POST { current.is_none() } else { current.as_ref() == Some(&sent["metadata"]["resourceVersion"]) };
        if !fits {
            return failure(409);
        }
        self.version += 1;
        self.writes += 1;
        sent["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.lease = Some(sent.clone());
        (200, sent)
    }

    fn holder(&self) -> Option<String> {
        self.lease.as_ref()?["spec"]["holderIdentity"].as_str().map(str::to_owned)
    }
}

fn replica(cluster: &Shared, identity: &str) -> Lease {
    let cluster = Arc::clone(cluster);
    let service = tower::service_fn(move |request: Request<Body>| {
        let cluster = Arc::clone(&cluster);
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect_bytes().await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
            if cluster.lock().unwrap().hanging {
                std::future::pending::<()>().await;
            }
            let (status, answer) = cluster.lock().unwrap().answer(&parts.method, &body);
            tokio::time::sleep(Duration::from_millis(5)).await;
            Ok::<_, std::io::Error>(Response::builder().status(status).body(Body::from(answer.to_string().into_bytes())).unwrap())
        }
    });
    Lease::new(Client::new(service, "finetune-system"), "finetune-system", "finetune-operator", identity, &format!("{identity}:8443"), TTL)
}

/// Acquires, then runs `hold` until it is lost; tells when each happened.
fn run(mut lease: Lease) -> tokio::task::JoinHandle<(Instant, Lost, Instant)> {
    tokio::spawn(async move {
        lease.acquire().await;
        let acquired = Instant::now();
        let lost = lease.hold().await;
        (acquired, lost, Instant::now())
    })
}

#[tokio::test(start_paused = true)]
async fn eight_racing_replicas_make_one_leader() {
    let cluster = Shared::default();
    let mut replicas: Vec<_> = (0..8).map(|n| replica(&cluster, &format!("pod-{n}"))).collect();
    let outcomes = futures::future::join_all(replicas.iter_mut().map(Lease::attempt)).await;
    let held: Vec<_> = outcomes.iter().filter(|outcome| matches!(outcome, Ok(Outcome::Held))).collect();
    assert_eq!(held.len(), 1, "{outcomes:?}");
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(Outcome::Held | Outcome::Raced))), "{outcomes:?}");
    assert_eq!(cluster.lock().unwrap().writes, 1);
}

#[tokio::test(start_paused = true)]
async fn eight_racing_takers_of_an_expired_lease_make_one_leader() {
    let cluster = Shared::default();
    replica(&cluster, "dead").acquire().await;
    let mut replicas: Vec<_> = (0..8).map(|n| replica(&cluster, &format!("pod-{n}"))).collect();
    let look = futures::future::join_all(replicas.iter_mut().map(Lease::attempt)).await;
    assert!(look.iter().all(|outcome| matches!(outcome, Ok(Outcome::OfAnother { holder, .. }) if holder == "dead")), "{look:?}");
    tokio::time::advance(TTL).await;
    let outcomes = futures::future::join_all(replicas.iter_mut().map(Lease::attempt)).await;
    assert_eq!(outcomes.iter().filter(|outcome| matches!(outcome, Ok(Outcome::Held))).count(), 1, "{outcomes:?}");
    assert_eq!(cluster.lock().unwrap().writes, 2);
}

#[tokio::test(start_paused = true)]
async fn the_lease_says_who_leads_where_and_since_when() {
    let cluster = Shared::default();
    let mut first = replica(&cluster, "pod-0");
    first.acquire().await;
    first.attempt().await.unwrap();
    let spec = |cluster: &Shared| {
        let mut lease = cluster.lock().unwrap().lease.clone().unwrap();
        let times = ["acquireTime", "renewTime"].map(|field| lease["spec"].as_object_mut().unwrap().remove(field).unwrap());
        (lease["spec"].clone(), lease["metadata"]["annotations"].clone(), times)
    };
    let (held, annotations, [acquired, renewed]) = spec(&cluster);
    assert_eq!(held, json!({"holderIdentity": "pod-0", "leaseDurationSeconds": 15, "leaseTransitions": 1}));
    assert_eq!(annotations, json!({"finetune.dev/report-address": "pod-0:8443"}));
    assert!(acquired.as_str() < renewed.as_str(), "a renewal keeps the time of acquisition: {acquired} {renewed}");

    let mut second = replica(&cluster, "pod-1");
    second.attempt().await.unwrap();
    tokio::time::advance(TTL).await;
    second.acquire().await;
    let (taken, annotations, [acquired_then, _]) = spec(&cluster);
    assert_eq!(taken, json!({"holderIdentity": "pod-1", "leaseDurationSeconds": 15, "leaseTransitions": 2}));
    assert_eq!(annotations, json!({"finetune.dev/report-address": "pod-1:8443"}));
    assert!(acquired.as_str() < acquired_then.as_str());
}

#[tokio::test(start_paused = true)]
async fn a_standby_knows_where_the_leader_takes_reports_until_it_leads_itself() {
    let cluster = Shared::default();
    let address = "10.0.0.7:8443";
    let mut first = Lease { address: address.to_owned(), ..replica(&cluster, "pod-0") };
    first.acquire().await;
    let mut standby = replica(&cluster, "pod-1");
    let (ours, leader) = (first.leader(), standby.leader());
    assert_eq!((*ours.borrow(), *leader.borrow()), (None, None));
    standby.attempt().await.unwrap();
    assert_eq!(*leader.borrow(), Some(address.parse().unwrap()));
    cluster.lock().unwrap().lease.as_mut().unwrap()["metadata"]["annotations"][REPORT_ADDRESS] = json!("https://elsewhere");
    standby.attempt().await.unwrap();
    assert_eq!(*leader.borrow(), None, "what is no address is nobody");
    tokio::time::advance(TTL).await;
    standby.acquire().await;
    assert_eq!(*leader.borrow(), None);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_renews_is_never_replaced() {
    let cluster = Shared::default();
    let leader = run(replica(&cluster, "pod-0"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let standby = run(replica(&cluster, "pod-1"));
    tokio::time::sleep(TTL * 20).await;
    assert_eq!(cluster.lock().unwrap().holder().as_deref(), Some("pod-0"));
    assert!(!leader.is_finished() && !standby.is_finished());
    assert_eq!(cluster.lock().unwrap().writes, 61, "one renewal each third of the time to live");
    leader.abort();
    standby.abort();
}

#[tokio::test(start_paused = true)]
async fn a_leader_without_an_api_server_stops_before_another_can_start() {
    for hanging in [false, true] {
        let cluster = Shared::default();
        let leader = run(replica(&cluster, "pod-0"));
        tokio::time::sleep(Duration::from_secs(1)).await;
        let standby = run(replica(&cluster, "pod-1"));
        tokio::time::sleep(TTL * 3).await;
        let cut = |on: bool| {
            let mut cluster = cluster.lock().unwrap();
            (cluster.broken, cluster.hanging) = (on && !hanging, on && hanging);
        };
        cut(true);
        let from = Instant::now();
        let (_, lost, ended) = leader.await.unwrap();
        assert_eq!(lost, Lost::Silent(TTL * 2 / 3));
        assert!(ended - from <= TTL * 2 / 3, "{:?}", ended - from);
        cut(false);
        while cluster.lock().unwrap().holder().as_deref() != Some("pod-1") {
            assert!(from.elapsed() < TTL * 3, "nobody leads");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(Instant::now() > ended);
        standby.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_lease_was_taken_stops_at_its_next_renewal_and_does_not_take_it_back() {
    let cluster = Shared::default();
    let leader = run(replica(&cluster, "pod-0"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    {
        let mut cluster = cluster.lock().unwrap();
        let lease = cluster.lease.as_mut().unwrap();
        lease["spec"]["holderIdentity"] = json!("pod-1");
        lease["metadata"]["resourceVersion"] = json!("77");
    }
    let (_, lost, _) = leader.await.unwrap();
    assert_eq!(lost, Lost::Taken("pod-1".to_owned()));
    assert_eq!(cluster.lock().unwrap().writes, 1);
}

#[tokio::test(start_paused = true)]
async fn a_write_by_somebody_who_is_no_replica_does_not_end_the_leader() {
    let cluster = Shared::default();
    let leader = run(replica(&cluster, "pod-0"));
    for version in 1000..1100 {
        tokio::time::sleep(Duration::from_millis(777)).await;
        if let Some(lease) = cluster.lock().unwrap().lease.as_mut() {
            lease["metadata"]["resourceVersion"] = json!(version.to_string());
            lease["metadata"]["labels"] = json!({"looked": version.to_string()});
        }
    }
    assert!(!leader.is_finished());
    leader.abort();
}

#[tokio::test(start_paused = true)]
async fn a_released_lease_is_free_at_once_and_a_stranger_cannot_release_it() {
    let cluster = Shared::default();
    let mut leader = replica(&cluster, "pod-0");
    leader.acquire().await;
    replica(&cluster, "pod-1").release().await.unwrap();
    assert_eq!(cluster.lock().unwrap().holder().as_deref(), Some("pod-0"));
    leader.release().await.unwrap();
    assert_eq!(cluster.lock().unwrap().holder(), None);
    let from = Instant::now();
    replica(&cluster, "pod-1").acquire().await;
    assert!(from.elapsed() < Duration::from_secs(1));
    assert_eq!(cluster.lock().unwrap().holder().as_deref(), Some("pod-1"));
}
