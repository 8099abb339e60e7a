//! What the API server is asked, and what its answers are taken for.

use axum::http::{Method, Request, Response};
use kube::client::Body;
use serde_json::{Value, json};
use tower_test::mock::Handle;

use super::*;

const TOKEN: &str = "header.payload.signature";
const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

type Server = Handle<Request<Body>, Response<Body>>;

fn tokens() -> (PodTokens, Server) {
    let (service, server) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
    (PodTokens::new(Client::new(service, "default"), "finetune.dev"), server)
}

/// Answers one request; returns its method, path and body.
async fn answer(server: &mut Server, status: u16, body: &Value) -> (Method, String, Value) {
    let (request, reply) = server.next_request().await.expect("a request");
    let (parts, body_sent) = request.into_parts();
    let body_sent = body_sent.collect_bytes().await.unwrap();
    reply.send_response(Response::builder().status(status).body(Body::from(body.to_string().into_bytes())).unwrap());
    (parts.method, parts.uri.path().to_owned(), serde_json::from_slice(&body_sent).unwrap_or_default())
}

fn proved() -> Value {
    json!({"authenticated": true, "audiences": ["finetune.dev"], "user": {
        "username": "system:serviceaccount:team-a:finetune-runner", "uid": "sa-uid", "groups": ["system:serviceaccounts"],
        "extra": {"authentication.kubernetes.io/pod-name": ["r-a0-x"], "authentication.kubernetes.io/pod-uid": ["pod-uid"],
                  "authentication.kubernetes.io/credential-id": ["JTI=1"]}}})
}

fn review(status: &Value) -> Value {
    json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "metadata": {}, "spec": {}, "status": status})
}

fn owner() -> Value {
    json!({"apiVersion": "batch/v1", "kind": "Job", "name": "r-a0", "uid": "job-uid", "controller": true})
}

fn pod(uid: &str, owners: &Value) -> Value {
    json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"name": "r-a0-x", "namespace": "team-a", "uid": uid, "ownerReferences": owners}})
}

fn not_found() -> Value {
    json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404, "message": "pods \"r-a0-x\" not found"})
}

fn sender() -> Sender {
    Sender { namespace: "team-a".to_owned(), pod_uid: "pod-uid".to_owned(), job_name: "r-a0".to_owned(), job_uid: "job-uid".to_owned() }
}

/// The server answers exactly these, in order, and gets no other request.
async fn authenticated(tokens: &PodTokens, server: &mut Server, answers: &[(u16, Value)]) -> Result<Sender, Answer> {
    let serve = async {
        for (status, body) in answers {
            answer(server, *status, body).await;
        }
    };
    let both = async { tokio::join!(tokens.authenticate(TOKEN, HERE), serve).0 };
    let result = tokio::time::timeout(Duration::from_secs(30), both).await.expect("all answers are used");
    let more = tokio::time::timeout(Duration::from_millis(1), server.next_request()).await;
    assert!(more.is_err(), "one request too many");
    result
}

#[tokio::test(start_paused = true)]
async fn a_token_is_reviewed_for_our_audience_then_its_pod_is_read_and_both_are_remembered() {
    let (tokens, mut server) = tokens();
    let serve = async {
        let asked = answer(&mut server, 201, &review(&proved())).await;
        let got = answer(&mut server, 200, &pod("pod-uid", &json!([owner()]))).await;
        (asked, got)
    };
    let (result, (asked, got)) = tokio::join!(tokens.authenticate(TOKEN, HERE), serve);
    assert_eq!(result, Ok(sender()));
    assert_eq!((asked.0, asked.1), (Method::POST, "/apis/authentication.k8s.io/v1/tokenreviews".to_owned()));
    assert_eq!(asked.2["spec"], json!({"token": TOKEN, "audiences": ["finetune.dev"]}));
    assert_eq!((got.0, got.1), (Method::GET, "/api/v1/namespaces/team-a/pods/r-a0-x".to_owned()));

    tokio::time::advance(Duration::from_secs(299)).await;
    assert_eq!(authenticated(&tokens, &mut server, &[]).await, Ok(sender()));
    tokio::time::advance(Duration::from_secs(2)).await;
    let anew = [(201, review(&proved())), (200, pod("pod-uid", &json!([owner()])))];
    assert_eq!(authenticated(&tokens, &mut server, &anew).await, Ok(sender()));
}

#[tokio::test(start_paused = true)]
async fn whatever_is_no_yes_for_our_audience_and_a_pod_is_no() {
    let without = |path: &str| {
        let mut status = proved();
        *status.pointer_mut(path).unwrap() = Value::Null;
        status
    };
    let with = |path: &str, value: Value| {
        let mut status = proved();
        *status.pointer_mut(path).unwrap() = value;
        status
    };
    let mut error = proved();
    error["error"] = json!("token is expired");
    let pod_uid = "/user/extra/authentication.kubernetes.io~1pod-uid";
    for status in [
        json!({}),
        json!(null),
        json!({"authenticated": true}),
        without("/authenticated"),
        with("/authenticated", json!(false)),
        without("/audiences"),
        with("/audiences", json!([])),
        with("/audiences", json!(["https://kubernetes.default.svc"])),
        error,
        without("/user"),
        without("/user/username"),
        with("/user/username", json!("admin")),
        with("/user/username", json!("system:node:n1")),
        with("/user/username", json!("system:serviceaccount:team-a")),
        without("/user/extra"),
        with(pod_uid, json!([])),
        with(pod_uid, json!([""])),
        with(pod_uid, json!(["a", "b"])),
        with("/user/extra/authentication.kubernetes.io~1pod-name", json!([])),
    ] {
        let (tokens, mut server) = tokens();
        assert_eq!(authenticated(&tokens, &mut server, &[(201, review(&status))]).await, Err(Answer::Unauthenticated), "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_gone_was_replaced_or_belongs_to_no_job_is_no_trainer() {
    let but = |field: &str, value: Value| {
        let mut owner = owner();
        owner[field] = value;
        owner
    };
    for (status, body) in [
        (404, not_found()),
        (200, pod("another-uid", &json!([owner()]))),
        (200, pod("pod-uid", &json!([]))),
        (200, pod("pod-uid", &json!([but("controller", json!(false))]))),
        (200, pod("pod-uid", &json!([but("controller", json!(null))]))),
        (200, pod("pod-uid", &json!([but("kind", json!("ReplicaSet"))]))),
        (200, pod("pod-uid", &json!([but("apiVersion", json!("example.com/v1"))]))),
    ] {
        let (tokens, mut server) = tokens();
        let answers = [(201, review(&proved())), (status, body)];
        assert_eq!(authenticated(&tokens, &mut server, &answers).await, Err(Answer::Forbidden), "{}", answers[1].1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_remembered_briefly_and_a_failure_not_at_all() {
    let (tokens, mut server) = tokens();
    let failure = json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "InternalError", "code": 500, "message": "etcd"});
    assert_eq!(authenticated(&tokens, &mut server, &[(500, failure)]).await, Err(Answer::Unavailable));
    assert_eq!(authenticated(&tokens, &mut server, &[(201, review(&json!({})))]).await, Err(Answer::Unauthenticated));
    assert_eq!(authenticated(&tokens, &mut server, &[]).await, Err(Answer::Unauthenticated));
    tokio::time::advance(Duration::from_secs(11)).await;
    let now_good = [(201, review(&proved())), (200, pod("pod-uid", &json!([owner()])))];
    assert_eq!(authenticated(&tokens, &mut server, &now_good).await, Ok(sender()));
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_silent_costs_five_seconds() {
    let (tokens, _server) = tokens();
    let from = Instant::now();
    assert_eq!(tokens.authenticate(TOKEN, HERE).await, Err(Answer::Unavailable));
    assert_eq!(from.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn one_address_cannot_make_us_ask_without_end_and_costs_no_other_address() {
    let (tokens, mut server) = tokens();
    let serve = async {
        for _ in 0..101 {
            answer(&mut server, 201, &review(&json!({}))).await;
        }
        tokio::time::timeout(Duration::from_secs(1), server.next_request()).await.is_err()
    };
    let guess = async {
        let mut answers = Vec::new();
        for n in 0..150 {
            answers.push(tokens.authenticate(&format!("{TOKEN}{n}"), HERE).await);
        }
        let other = tokens.authenticate("another.token.here", IpAddr::from([10, 0, 0, 1])).await;
        (answers, other)
    };
    let ((answers, other), quiet) = tokio::join!(guess, serve);
    assert_eq!(answers.iter().filter(|answer| **answer == Err(Answer::Unauthenticated)).count(), 100);
    assert_eq!(answers.iter().filter(|answer| **answer == Err(Answer::TooMany)).count(), 50);
    assert_eq!(other, Err(Answer::Unauthenticated));
    assert!(quiet);
}

#[tokio::test(start_paused = true)]
async fn what_is_remembered_is_bounded() {
    let remembered = Remembered::new(3, Duration::from_secs(10));
    for n in 0..100_u8 {
        remembered.insert([n; 32], n);
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    assert_eq!(remembered.values.lock().unwrap().len(), 3);
    assert_eq!([96, 97, 98, 99].map(|n| remembered.get(&[n; 32])), [None, Some(97), Some(98), Some(99)]);
}
