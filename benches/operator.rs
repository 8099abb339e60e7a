//! How fast the operator takes runs up, and what it costs: the real program against a real API server, without a kubelet.
//! `FINETUNE_TESTBED=… cargo bench --bench operator`; `make bench` builds what it needs.

#[path = "../tests/control_plane/mod.rs"]
mod control_plane;

#[path = "../tests/certificate/mod.rs"]
mod certificate;

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use control_plane::{ControlPlane, within};
use finetune_operator::api::status::{Attempt, Checkpoint, EventType, Phase, RunEvent};
use finetune_operator::api::{FinetuneModel, FinetuneRun, FinetuneRunStatus, FinetuneRuntime};
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

const RUNS: usize = 100;
const FINISHED: usize = 1000;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The operator as a process; it ends with this value.
struct Operator {
    process: Child,
    http: String,
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Operator {
    async fn start(cluster: &ControlPlane, tls_dir: &Path) -> Result<Self> {
        let (report, http) = (free_port()?, free_port()?);
        let mut command = Command::new(env!("CARGO_BIN_EXE_finetune-operator"));
        command.args(["--preflight-image", "bench", "--report-url", "https://localhost:8443"]);
        command.arg("--tls-dir").arg(tls_dir).env("KUBECONFIG", cluster.kubeconfig()).env("RUST_LOG", "warn");
        command.args(["--report-listen", &format!("127.0.0.1:{report}"), "--http-listen", &format!("127.0.0.1:{http}")]);
        let operator = Self { process: command.stdin(Stdio::null()).spawn()?, http: format!("http://127.0.0.1:{http}") };
        let ready = async {
            while !matches!(reqwest::get(format!("{}/readyz", operator.http)).await, Ok(answer) if answer.status().is_success()) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        within(ready).await;
        Ok(operator)
    }

    async fn metric(&self, name: &str) -> Result<f64> {
        let text = reqwest::get(format!("{}/metrics", self.http)).await?.text().await?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        Ok(value.unwrap_or_default())
    }

    /// Memory in MiB: now, and the most so far.
    fn memory(&self) -> Result<(f64, f64)> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let mib = |key: &str| -> Option<f64> { text.lines().find_map(|line| line.strip_prefix(key)?.split_whitespace().next()?.parse().ok()) };
        Ok((mib("VmRSS:").unwrap_or_default() / 1024.0, mib("VmHWM:").unwrap_or_default() / 1024.0))
    }
}

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn example<K: serde::de::DeserializeOwned>(file: &str) -> Result<K> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(file);
    Ok(serde_saphyr::from_str(&std::fs::read_to_string(path)?)?)
}

fn run(namespace: &str, name: &str) -> Result<FinetuneRun> {
    let mut run: FinetuneRun = example("instruction.yaml")?;
    run.metadata.name = Some(name.to_owned());
    run.metadata.namespace = Some(namespace.to_owned());
    Ok(run)
}

/// Creates `RUNS` runs, all at once or each after the Job of the one before, and returns how long each waited for its preflight Job.
async fn apply_to_job(client: &Client, namespace: &str, at_once: bool) -> Result<Vec<Duration>> {
    let runs: Api<FinetuneRun> = Api::namespaced(client.clone(), namespace);
    let jobs: Api<Job> = Api::namespaced(client.clone(), namespace);
    let mut events = jobs.watch(&WatchParams::default(), "0").await?.boxed();
    let mut began = BTreeMap::new();
    let mut took = Vec::new();
    for n in 0..RUNS {
        let name = format!("run-{n}");
        began.insert(name.clone(), Instant::now());
        runs.create(&PostParams::default(), &run(namespace, &name)?).await?;
        while !at_once && took.len() <= n {
            next_job(&mut events, &began, &mut took).await?;
        }
    }
    while took.len() < RUNS {
        next_job(&mut events, &began, &mut took).await?;
    }
    took.sort();
    Ok(took)
}

async fn next_job(
    events: &mut (impl futures::Stream<Item = kube::Result<WatchEvent<Job>>> + Unpin),
    began: &BTreeMap<String, Instant>,
    took: &mut Vec<Duration>,
) -> Result<()> {
    if let Some(WatchEvent::Added(job)) = within(events.try_next()).await? {
        let since = job.labels().get("finetune.dev/run").and_then(|run| began.get(run)).ok_or("a Job of no run")?;
        took.push(since.elapsed());
    }
    Ok(())
}

/// What the API server counted as writes so far, by verb and resource.
async fn writes(client: &Client) -> Result<BTreeMap<String, f64>> {
    let text = client.request_text(axum::http::Request::get("/metrics").body(Vec::new())?).await?;
    let mut found = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("apiserver_request_total{")) {
        let label = |name: &str| line.split(&format!("{name}=\"")).nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default();
        let verb = label("verb");
        if matches!(verb, "POST" | "PUT" | "PATCH" | "APPLY" | "DELETE") {
            let subresource = label("subresource");
            let what = format!("{verb} {}{}{subresource}", label("resource"), if subresource.is_empty() { "" } else { "/" });
            *found.entry(what).or_default() += line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()).unwrap_or_default();
        }
    }
    Ok(found)
}

/// A finished run with as much in its status as a long one has.
fn finished() -> FinetuneRunStatus {
    let time = Time(Timestamp::UNIX_EPOCH);
    let event = |n: i64| RunEvent {
        type_: EventType::CheckpointSaved,
        time: Time(Timestamp::from_second(n).unwrap_or(Timestamp::UNIX_EPOCH)),
        message: "a checkpoint is complete".to_owned(),
        attempt: Some(0),
    };
    let checkpoint = |step: i64| Checkpoint {
        step,
        time: time.clone(),
        uri: format!("s3://out/team-a/run/checkpoints/ep1-ba{step}-rank0.pt"),
        size_bytes: Some(1),
        kind: "composer".to_owned(),
        newest: false,
    };
    let attempt = |number: i64| Attempt {
        number,
        job: format!("run-0123456789ab-a{number}"),
        nodes: vec!["node-1".to_owned()],
        started_at: Some(time.clone()),
        ended_at: Some(time.clone()),
        reason: Some("Completed".to_owned()),
        exit_code: Some(0),
        gpu_hours: 1.0,
        resumed_from_step: None,
    };
    FinetuneRunStatus {
        phase: Some(Phase::Completed),
        completed_at: Some(time.clone()),
        events: (0..32).map(event).collect(),
        checkpoints: (1..=8).map(checkpoint).collect(),
        attempts: (0..2).map(attempt).collect(),
        ..FinetuneRunStatus::default()
    }
}

fn at(took: &[Duration], percent: usize) -> f64 {
    took.get((took.len() * percent).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default().as_secs_f64() * 1000.0
}

#[tokio::main]
async fn main() -> Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cluster = ControlPlane::start(&["garbage-collector-controller"]);
    let client = cluster.client().await;
    cluster.install_crds().await;
    let apply = PatchParams::apply("bench").force();
    let model: FinetuneModel = example("model-tiny-llama.yaml")?;
    Api::<FinetuneModel>::all(client.clone()).patch(&model.name_any(), &apply, &Patch::Apply(&model)).await?;
    let runtime: FinetuneRuntime = example("runtime-demo.yaml")?;
    Api::<FinetuneRuntime>::all(client.clone()).patch(&runtime.name_any(), &apply, &Patch::Apply(&runtime)).await?;
    let tls_dir = tempfile::tempdir()?;
    certificate::write(tls_dir.path());

    let operator = Operator::start(&cluster, tls_dir.path()).await?;
    let idle = operator.memory()?;
    for (how, at_once) in [("one after the other", false), ("all at once", true)] {
        let namespace = cluster.namespace("bench").await;
        let account: ServiceAccount = serde_json::from_value(json!({"metadata": {"name": "finetune-runner"}}))?;
        Api::namespaced(client.clone(), &namespace).create(&PostParams::default(), &account).await?;
        let (before, statuses) = (writes(&client).await?, operator.metric("finetune_status_writes_total").await?);
        let took = apply_to_job(&client, &namespace, at_once).await?;
        let statuses = operator.metric("finetune_status_writes_total").await? - statuses;
        println!(
            "{RUNS} runs {how}: apply to preflight Job p50 {:.0} ms, p90 {:.0} ms, p99 {:.0} ms, most {:.0} ms",
            at(&took, 50),
            at(&took, 90),
            at(&took, 99),
            at(&took, 100)
        );
        let hundred = f64::from(u32::try_from(RUNS)?);
        println!("  writes for each run up to then: {:.1} statuses", statuses / hundred);
        for (what, count) in writes(&client).await? {
            let count = (count - before.get(&what).copied().unwrap_or_default()) / hundred;
            if count >= 0.1 {
                println!("    {what}: {count:.1}");
            }
        }
    }
    let busy = operator.memory()?;
    drop(operator);
    println!("memory, MiB: idle {:.1}; with {} open runs {:.1}, most {:.1}", idle.0, 2 * RUNS, busy.0, busy.1);

    let namespace = cluster.namespace("finished").await;
    let runs: Api<FinetuneRun> = Api::namespaced(client.clone(), &namespace);
    for n in 0..FINISHED {
        let name = format!("run-{n}");
        runs.create(&PostParams::default(), &run(&namespace, &name)?).await?;
        let status = json!({"status": finished()});
        runs.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await?;
    }
    for run in Api::<FinetuneRun>::all(client.clone()).list(&kube::api::ListParams::default()).await?.items {
        let open = run.status.as_ref().and_then(|status| status.phase) != Some(Phase::Completed);
        if let (true, Some(namespace)) = (open, run.namespace()) {
            Api::<FinetuneRun>::namespaced(client.clone(), &namespace).delete(&run.name_any(), &DeleteParams::background()).await?;
        }
    }
    let operator = Operator::start(&cluster, tls_dir.path()).await?;
    let expected = f64::from(u32::try_from(FINISHED)?);
    let counted = async {
        while operator.metric("finetune_runs{phase=\"Completed\"}").await.unwrap_or_default() < expected {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    within(counted).await;
    let (now, most) = operator.memory()?;
    println!("memory, MiB: with {FINISHED} finished runs {now:.1}, most {most:.1}");
    Ok(())
}
