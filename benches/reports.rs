//! How fast the report endpoint answers: 1,000 runs that post every 5 seconds, each post on a TLS connection of its own.
//! Only the proof of the sender is made up. `cargo bench --bench reports -- <seconds>` (default 20).

#[path = "../tests/certificate/mod.rs"]
mod certificate;

use std::error::Error;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use finetune_operator::api::names;
use finetune_operator::api::status::Stage;
use finetune_operator::connections::Limits;
use finetune_operator::metrics::Metrics;
use finetune_operator::report::store::Store;
use finetune_operator::report::{Answer, Authenticate, Config, CurrentRun, Runs, Sender, Server, tls};
use futures::StreamExt;
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const RUNS: usize = 1000;
const EVERY: Duration = Duration::from_secs(5);

/// A token names its run.
struct Trusting;

impl Authenticate for Trusting {
    async fn authenticate(&self, token: &str, _: IpAddr) -> Result<Sender, Answer> {
        let run = token.strip_prefix("token-of-the-run-").ok_or(Answer::Unauthenticated)?;
        Ok(Sender {
            namespace: "team-a".to_owned(),
            pod_uid: run.to_owned(),
            job_name: names::job(run, run, Stage::Train, 0),
            job_uid: run.to_owned(),
        })
    }
}

struct AnyRun;

impl Runs for AnyRun {
    fn ready(&self) -> bool {
        true
    }

    fn current(&self, _: &str, name: &str) -> Option<CurrentRun> {
        let (uid, outputs) = (name.to_owned(), format!("s3://out/team-a/{name}"));
        Some(CurrentRun { job_uid: Some(uid.clone()), uid, attempt: 0, outputs, ended: false })
    }
}

fn post(run: &str, sequence: u64) -> String {
    let checkpoints: Vec<_> = (1..=16_u64)
        .map(|n| json!({"step": n, "epoch": 0, "time": "2026-01-01T00:00:00Z", "uri": format!("s3://out/team-a/{run}/checkpoints/ba{n}"), "sizeBytes": 1, "kind": "composer"}))
        .collect();
    let events: Vec<_> =
        (10..42).map(|n| json!({"type": "CHECKPOINT_SAVED", "time": format!("2026-01-01T00:00:{n}Z"), "message": "a checkpoint"})).collect();
    let progress = json!({"step": sequence, "totalSteps": 1000, "epoch": 0, "tokens": 3000, "loss": 5.1, "learningRate": 0.001, "gradientNorm": 1.2,
        "tokensPerSecond": 800.0, "evalMetrics": {"LanguageCrossEntropy": 4.0}, "estimatedRemainingSeconds": 40});
    json!({"attempt": 0, "start": "s", "sequence": sequence, "progress": progress, "events": events, "checkpoints": checkpoints}).to_string()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let seconds = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(20);
    let _ = rustls::crypto::ring::default_provider().install_default();
    let dir = tempfile::tempdir()?;
    certificate::write(dir.path());
    let store = Arc::new(Store::default());
    let limits = Limits { connections: 2 * RUNS, per_address: 2 * RUNS, read: Duration::from_secs(5) };
    let config = Config { limits, ..Config::new(([127, 0, 0, 1], 0).into(), dir.path().to_owned()) };
    let server = Server::bind(config, Trusting, AnyRun, Arc::clone(&store), Metrics::new()).await?;
    let base = format!("https://localhost:{}/v1/namespaces/team-a/runs", server.local_addr().port());
    let authority = reqwest::Certificate::from_pem(tls::authority(dir.path()).await?.as_bytes())?;
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([authority]).build()?;
    tokio::spawn(server.serve(CancellationToken::new()));
    let triggers = tokio::spawn({
        let end = tokio::time::sleep(Duration::from_secs(seconds));
        Arc::clone(&store).triggers().take_until(end).count()
    });

    let end = Instant::now() + Duration::from_secs(seconds);
    let mut trainers = JoinSet::new();
    for n in 0..RUNS {
        let (client, base) = (client.clone(), base.clone());
        trainers.spawn(async move {
            let run = format!("run-{n}");
            let mut took = Vec::new();
            let mut failed = 0_usize;
            tokio::time::sleep(EVERY * u32::try_from(n).unwrap_or(0) / u32::try_from(RUNS).unwrap_or(1)).await;
            let mut ticks = tokio::time::interval(EVERY);
            for sequence in 0.. {
                ticks.tick().await;
                let from = Instant::now();
                if from >= end {
                    break;
                }
                let sent = client
                    .post(format!("{base}/{run}/report"))
                    .bearer_auth(format!("token-of-the-run-{run}"))
                    .body(post(&run, sequence))
                    .send()
                    .await;
                match sent {
                    Ok(answer) if answer.status().as_u16() == 204 => took.push(from.elapsed()),
                    _ => failed += 1,
                }
            }
            (took, failed)
        });
    }
    let (mut took, mut failed) = (Vec::new(), 0);
    while let Some(trainer) = trainers.join_next().await {
        let (times, failures) = trainer?;
        took.extend(times);
        failed += failures;
    }
    took.sort();
    let at = |percent: usize| took.get(took.len().saturating_sub(1) * percent / 100).copied().unwrap_or_default();
    println!(
        "{} posts of {} bytes by {RUNS} runs in {seconds} s, {failed} failed; TLS handshake to answer: p50 {:.1?}, p90 {:.1?}, p99 {:.1?}, most {:.1?}; {} triggers",
        took.len(),
        post("run-0", 0).len(),
        at(50),
        at(90),
        at(99),
        at(100),
        triggers.await?
    );
    Ok(())
}
