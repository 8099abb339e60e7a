//! The endpoint over real TLS on loopback, with a real HTTP client; only the proof of the sender is made up.

use std::io::{Read as _, Write as _};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Mutex;

use axum::http::StatusCode;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::message::Progress;
use super::store::{Received, Store};
use super::*;
use crate::api::names;
use crate::api::status::Stage;

const GOOD: &str = "good-token-of-a-pod";
const OWN: &str = "/v1/namespaces/team-a/runs/r/report";
const KUBEFLOW: &str = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/team-a/trainjobs/r/status";

const RELOAD: Duration = Duration::from_millis(20);

/// Knows one token.
struct OneToken;

impl Authenticate for OneToken {
    async fn authenticate(&self, token: &str, _: IpAddr) -> Result<Sender, Answer> {
        match token {
            GOOD => Ok(Sender {
                namespace: "team-a".to_owned(),
                pod_uid: "pod-uid".to_owned(),
                job_name: names::job("r", "run-uid", Stage::Train, 1),
                job_uid: "job-uid".to_owned(),
            }),
            "token-when-api-is-down" => Err(Answer::Unavailable),
            _ => Err(Answer::Unauthenticated),
        }
    }
}

/// Knows one run, `team-a/r`.
#[derive(Clone)]
struct OneRun(Arc<Mutex<(bool, CurrentRun)>>);

impl OneRun {
    fn new() -> Self {
        let run = CurrentRun {
            uid: "run-uid".to_owned(),
            attempt: 1,
            job_uid: Some("job-uid".to_owned()),
            outputs: "s3://out/team-a/r".to_owned(),
            ended: false,
        };
        Self(Arc::new(Mutex::new((true, run))))
    }

    fn change(&self, change: impl FnOnce(&mut (bool, CurrentRun))) {
        change(&mut self.0.lock().unwrap());
    }
}

impl Runs for OneRun {
    fn ready(&self) -> bool {
        self.0.lock().unwrap().0
    }

    fn current(&self, namespace: &str, name: &str) -> Option<CurrentRun> {
        ((namespace, name) == ("team-a", "r")).then(|| self.0.lock().unwrap().1.clone())
    }
}

/// Writes a certificate for `localhost` by a new authority, as the Secret's mount would show it.
fn write_certificate(dir: &Path) {
    let mut authority = CertificateParams::new(Vec::<String>::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(rcgen::DnType::CommonName, format!("authority {}", dir.display()));
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    for (name, pem) in [(tls::CERTIFICATE, certificate.pem()), (tls::KEY, key.serialize_pem()), (tls::AUTHORITY, authority.pem())] {
        std::fs::write(dir.join(name), pem).unwrap();
    }
}

struct Running {
    address: SocketAddr,
    dir: TempDir,
    store: Arc<Store>,
    runs: OneRun,
    metrics: Metrics,
    shutdown: CancellationToken,
    serving: tokio::task::JoinHandle<Result<(), ServeError>>,
}

impl Running {
    async fn start() -> Self {
        Self::start_reading_for(Duration::from_millis(500)).await
    }

    async fn start_reading_for(read: Duration) -> Self {
        Self::start_with(read, None).await
    }

    /// With a certificate by the authority in `dir` of the other replica, when there is one.
    async fn start_with(read: Duration, leader: Option<(&Self, Leader)>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        write_certificate(dir.path());
        for name in leader.iter().flat_map(|_| [tls::CERTIFICATE, tls::KEY, tls::AUTHORITY]) {
            std::fs::copy(leader.as_ref().unwrap().0.dir.path().join(name), dir.path().join(name)).unwrap();
        }
        let leader = leader.map(|(_, leader)| leader);
        let (store, runs, metrics) = (Arc::new(Store::default()), OneRun::new(), Metrics::new());
        let limits = Limits { connections: 20, per_address: 10, read };
        let config = Config { limits, leader, reload_every: RELOAD, ..Config::new(([127, 0, 0, 1], 0).into(), dir.path().to_owned()) };
        let server = Server::bind(config, OneToken, runs.clone(), Arc::clone(&store), metrics.clone()).await.unwrap();
        let (address, shutdown) = (server.local_addr(), CancellationToken::new());
        let serving = tokio::spawn(server.serve(shutdown.clone()));
        Self { address, dir, store, runs, metrics, shutdown, serving }
    }

    /// A client that trusts the authority whose certificate lies in the folder now.
    async fn client(&self) -> reqwest::Client {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let pem = tls::authority(self.dir.path()).await.unwrap();
        let authority = reqwest::Certificate::from_pem(pem.as_bytes()).unwrap();
        reqwest::Client::builder().no_proxy().tls_certs_only([authority]).build().unwrap()
    }

    fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.address.port())
    }

    async fn send(&self, path: &str, token: &str, body: impl Into<reqwest::Body>) -> (StatusCode, String) {
        let request = self.client().await.post(self.url(path)).bearer_auth(token).body(body);
        let response = request.send().await.unwrap();
        (response.status(), response.text().await.unwrap())
    }

    async fn post(&self, path: &str, token: &str, body: &Value) -> (StatusCode, String) {
        self.send(path, token, body.to_string()).await
    }

    /// Posts are counted by their answer; the others are zero.
    fn answered(&self) -> Vec<String> {
        let text = self.metrics.text().unwrap();
        let reports = text.lines().filter_map(|line| line.strip_prefix("finetune_reports_total{answer="));
        let mut answered: Vec<_> = reports.filter(|line| !line.ends_with(" 0")).map(|line| line.replace(['"', '}'], "")).collect();
        answered.sort();
        answered
    }
}

fn body(attempt: i64, sequence: i64) -> Value {
    json!({"attempt": attempt, "start": "s", "sequence": sequence, "progress": {"step": sequence}})
}

fn no(status: u16, words: &str) -> (StatusCode, String) {
    (StatusCode::from_u16(status).unwrap(), words.to_owned())
}

#[tokio::test]
async fn a_post_of_the_current_trainer_is_kept_and_triggers_its_run() {
    let running = Running::start().await;
    let mut triggers = Box::pin(Arc::clone(&running.store).triggers());
    assert_eq!(running.post(OWN, GOOD, &body(1, 7)).await, no(204, ""));
    let Received { report, at, moved } = running.store.latest("run-uid", 1).unwrap();
    assert_eq!((report.attempt, report.sequence, report.progress), (1, 7, Progress { step: Some(7), ..Progress::default() }));
    assert!(jiff::Timestamp::now().duration_since(at).as_secs() < 60);
    assert_eq!(moved, at);
    assert_eq!(futures::StreamExt::next(&mut triggers).await, Some(("team-a".to_owned(), "r".to_owned())));
    assert_eq!(running.answered(), ["accepted 1"]);
}

#[tokio::test]
async fn hugging_face_trainer_reports_with_its_own_words() {
    let running = Running::start().await;
    let status = json!({"trainerStatus": {"lastUpdatedTime": "2026-01-01T00:00:00Z", "progressPercentage": 10, "metrics": [{"name": "loss", "value": "5.10"}]}});
    assert_eq!(running.post(KUBEFLOW, GOOD, &status).await, no(200, "{}"));
    let report = running.store.latest("run-uid", 1).unwrap().report;
    assert_eq!((report.start.as_str(), report.progress.loss, report.progress.percent), ("pod-uid", Some(5.1), Some(10)));
    assert_eq!(running.post(KUBEFLOW, GOOD, &body(1, 7)).await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn who_is_not_proved_learns_nothing_and_changes_nothing() {
    let running = Running::start().await;
    let client = running.client().await;
    let unauthenticated = no(401, "send the token in FINETUNE_REPORT_TOKEN as a bearer token");
    for header in ["", "Bearer", "Bearer short", "Basic Z29vZDp0b2tlbi1vZi1hLXBvZA==", "Bearer good token of a pod", "Bearer bad-token-of-somebody"] {
        let response = client.post(running.url(OWN)).header("authorization", header).body(body(1, 7).to_string()).send().await.unwrap();
        assert_eq!((response.status(), response.text().await.unwrap()), unauthenticated, "{header}");
    }
    let response = client.post(running.url(OWN)).body(body(1, 7).to_string()).send().await.unwrap();
    assert_eq!((response.status(), response.text().await.unwrap()), unauthenticated);
    let forbidden = no(403, "only the training pods of a run report for it");
    for path in ["/v1/namespaces/team-a/runs/unknown/report", "/v1/namespaces/team-b/runs/r/report", "/v1/namespaces/team-a/runs/..%2Fr/report"] {
        assert_eq!(running.post(path, GOOD, &body(1, 7)).await, forbidden, "{path}");
    }
    assert_eq!(running.post("/v1/namespaces/team-a/runs/r", GOOD, &body(1, 7)).await.0, StatusCode::NOT_FOUND);
    assert_eq!(client.get(running.url(OWN)).bearer_auth(GOOD).send().await.unwrap().status(), StatusCode::METHOD_NOT_ALLOWED);
    assert!(running.store.is_empty());
    assert_eq!(running.answered(), ["forbidden 3", "unauthenticated 7"]);
}

#[tokio::test]
async fn what_comes_too_early_or_too_late_is_told_apart() {
    let running = Running::start().await;
    assert_eq!(running.post(OWN, GOOD, &body(0, 7)).await, no(409, "another attempt is current"));
    assert_eq!(running.post(OWN, GOOD, &body(2, 7)).await, no(409, "another attempt is current"));
    assert_eq!(running.post(OWN, "token-when-api-is-down", &body(1, 7)).await, no(503, "the token could not be checked"));
    running.runs.change(|(_, run)| run.job_uid = None);
    assert_eq!(running.post(OWN, GOOD, &body(1, 7)).await, no(503, "the operator does not know this attempt yet"));
    running.runs.change(|(ready, _)| *ready = false);
    let unknown = "/v1/namespaces/team-a/runs/unknown/report";
    let request = running.client().await.post(running.url(unknown)).bearer_auth(GOOD).body("{}");
    let response = request.send().await.unwrap();
    assert_eq!((response.status(), response.headers()["retry-after"].to_str().unwrap()), (StatusCode::SERVICE_UNAVAILABLE, "5"));
    running.runs.change(|(ready, run)| (*ready, run.ended) = (true, true));
    assert_eq!(running.post(OWN, GOOD, &body(1, 7)).await, no(410, "the run has ended"));
    assert!(running.store.is_empty());
}

#[tokio::test]
async fn a_bad_body_is_refused_without_a_word_of_it() {
    let running = Running::start().await;
    for bad in ["", "{", "hf_secret", r#"{"attempt": 1, "start": "s", "sequence": 1, "events": "hf_secret"}"#, "[1e999]"] {
        let (status, words) = running.send(OWN, GOOD, bad.to_owned()).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(!words.contains("secret"), "{words}");
    }
    let full = format!("{}{}", body(1, 7), " ".repeat(64 * 1024 - body(1, 7).to_string().len()));
    assert_eq!(running.send(OWN, GOOD, full.clone()).await, no(204, ""));
    assert_eq!(running.send(OWN, GOOD, full + " ").await, no(413, "the body is longer than 64 KiB"));
    assert_eq!(running.send(OWN, GOOD, "x".repeat(900 * 1024)).await, no(413, "the body is longer than 64 KiB"));
    let endless = futures::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b'x'; 64 * 1024]));
    let request = running.client().await.post(running.url(OWN)).bearer_auth(GOOD).body(reqwest::Body::wrap_stream(endless));
    let ended = tokio::time::timeout(Duration::from_secs(60), request.send()).await.expect("an endless body is not read for ever");
    assert!(ended.is_err() || ended.is_ok_and(|response| response.status() == StatusCode::PAYLOAD_TOO_LARGE));
    assert_eq!(running.store.latest("run-uid", 1).unwrap().report.sequence, 7);
}

#[tokio::test]
async fn a_run_that_posts_too_often_is_slowed_down() {
    let running = Running::start().await;
    let client = running.client().await;
    let mut answers = Vec::new();
    while answers.last() != Some(&StatusCode::TOO_MANY_REQUESTS) {
        assert!(answers.len() < 2000, "2,000 posts went through");
        let posts = (0..8).map(|n| client.post(running.url(OWN)).bearer_auth(GOOD).body(body(1, n).to_string()).send());
        let mut statuses: Vec<_> = futures::future::join_all(posts).await.into_iter().map(|response| response.unwrap().status()).collect();
        statuses.sort();
        answers.extend(statuses);
    }
    assert!(answers.len() >= 20, "{answers:?}");
}

#[tokio::test]
async fn a_slow_sender_is_cut_off_wherever_it_stalls() {
    let running = Running::start().await;
    let stalled = futures::stream::once(async { Ok::<_, std::io::Error>("{") }).chain_pending();
    assert_eq!(running.send(OWN, GOOD, reqwest::Body::wrap_stream(stalled)).await, no(408, "the request came too slowly"));

    let address = running.address;
    let pem = tls::authority(running.dir.path()).await.unwrap();
    let cut = tokio::task::spawn_blocking(move || [read_after(address, None), read_after(address, Some((&pem, b"POST / HTTP/1.1\r\nhost: ")))]);
    let cut = tokio::time::timeout(Duration::from_secs(60), cut).await.expect("both are cut off").unwrap();
    assert_eq!(cut, ["", ""]);
    assert_eq!(running.post(OWN, GOOD, &body(1, 1)).await.0, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn a_connection_too_many_is_closed_and_its_place_comes_back() {
    let running = Running::start_reading_for(Duration::from_secs(600)).await;
    let idle: Vec<_> = (0..10).map(|_| std::net::TcpStream::connect(running.address).unwrap()).collect();
    let client = running.client().await;
    let post = || client.post(running.url(OWN)).bearer_auth(GOOD).body(body(1, 1).to_string()).send();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while post().await.is_ok() {
        assert!(tokio::time::Instant::now() < deadline, "ten idle connections leave no place");
    }
    drop(idle);
    while !post().await.is_ok_and(|response| response.status() == StatusCode::NO_CONTENT) {
        assert!(tokio::time::Instant::now() < deadline, "the places came back");
    }
}

#[tokio::test]
async fn a_new_certificate_is_served_without_a_restart_and_a_bad_one_never() {
    let running = Running::start().await;
    let old = running.client().await;
    std::fs::write(running.dir.path().join(tls::CERTIFICATE), "no certificate").unwrap();
    let from = tokio::time::Instant::now();
    while from.elapsed() < 10 * RELOAD {
        assert!(old.get(running.url("/")).send().await.is_ok());
    }

    write_certificate(running.dir.path());
    let new = running.client().await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while new.get(running.url("/")).send().await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "the new certificate is not served");
    }
    assert!(old.get(running.url("/")).send().await.is_err());
}

#[tokio::test]
async fn what_is_wrong_with_the_certificate_is_said_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let bind = || async {
        let config = Config::new(([127, 0, 0, 1], 0).into(), dir.path().to_owned());
        let error = Server::bind(config, OneToken, OneRun::new(), Arc::default(), Metrics::new()).await.err().unwrap();
        std::error::Error::source(&error).unwrap().to_string()
    };
    assert_eq!(bind().await, format!("read {}", dir.path().join("tls.crt").display()));
    std::fs::write(dir.path().join("tls.crt"), "x").unwrap();
    std::fs::write(dir.path().join("tls.key"), "x").unwrap();
    assert_eq!(bind().await, "tls.key holds no usable PEM");
    write_certificate(dir.path());
    std::fs::write(dir.path().join("tls.key"), KeyPair::generate().unwrap().serialize_pem()).unwrap();
    assert_eq!(bind().await, "use tls.crt with tls.key");
}

#[tokio::test]
async fn a_standby_hands_a_proved_post_on_to_the_leader_and_gives_back_what_it_answers() {
    let leading = Running::start().await;
    let (address, known) = tokio::sync::watch::channel(None);
    let leader = Leader { host: "localhost".to_owned(), address: known };
    let standby = Running::start_with(Duration::from_secs(5), Some((&leading, leader))).await;
    standby.runs.change(|(ready, _)| *ready = false);
    let not_yet = no(503, "the operator does not know this attempt yet");
    assert_eq!(standby.post(OWN, GOOD, &body(1, 7)).await, not_yet, "nobody leads");

    address.send_replace(Some(leading.address));
    assert_eq!(standby.post(OWN, GOOD, &body(1, 8)).await, no(204, ""));
    assert_eq!(leading.store.latest("run-uid", 1).unwrap().report.sequence, 8);
    let status = json!({"trainerStatus": {"progressPercentage": 10}});
    assert_eq!(standby.post(KUBEFLOW, GOOD, &status).await, no(200, "{}"));
    assert_eq!(standby.post(OWN, GOOD, &body(0, 9)).await, no(409, "another attempt is current"));
    assert_eq!(standby.post("/v1/namespaces/team-a/runs/unknown/report", GOOD, &body(1, 9)).await.0, StatusCode::FORBIDDEN);
    assert_eq!(standby.post(OWN, "bad-token-of-somebody", &body(1, 9)).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(leading.answered(), ["accepted 2", "forbidden 1", "other_attempt 1"], "what is not proved goes no further");
    assert!(standby.store.is_empty());

    leading.runs.change(|(ready, _)| *ready = false);
    address.send_replace(Some(standby.address));
    assert_eq!(standby.post(OWN, GOOD, &body(1, 10)).await, not_yet, "a post that was handed on goes no further");
    leading.shutdown.cancel();
    leading.serving.await.unwrap().unwrap();
    address.send_replace(Some(leading.address));
    assert_eq!(standby.post(OWN, GOOD, &body(1, 11)).await, not_yet, "the leader is gone");
}

#[tokio::test]
async fn shutdown_ends_the_server_and_frees_its_port() {
    let running = Running::start().await;
    assert_eq!(running.post(OWN, GOOD, &body(1, 7)).await.0, StatusCode::NO_CONTENT);
    running.shutdown.cancel();
    running.serving.await.unwrap().unwrap();
    assert!(tokio::net::TcpStream::connect(running.address).await.is_err());
}

trait ChainPending: futures::Stream + Sized {
    /// The stream, then silence.
    fn chain_pending(self) -> impl futures::Stream<Item = Self::Item> {
        futures::StreamExt::chain(self, futures::stream::pending())
    }
}

impl<S: futures::Stream> ChainPending for S {}

/// Sends the bytes over TLS, or nothing at all without an authority, and reads until the server closes.
fn read_after(address: SocketAddr, sent: Option<(&str, &[u8])>) -> String {
    let mut tcp = std::net::TcpStream::connect(address).unwrap();
    let mut answer = Vec::new();
    let Some((pem, bytes)) = sent else {
        let _ = tcp.read_to_end(&mut answer);
        return String::from_utf8_lossy(&answer).into_owned();
    };
    let mut roots = rustls::RootCertStore::empty();
    let authority = <rustls::pki_types::CertificateDer as rustls::pki_types::pem::PemObject>::from_pem_slice(pem.as_bytes()).unwrap();
    roots.add(authority).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut connection = rustls::ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    let mut stream = rustls::Stream::new(&mut connection, &mut tcp);
    stream.write_all(bytes).unwrap();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}
