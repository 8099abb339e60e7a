//! The operator: arguments, telemetry, client, lease, controller and endpoints; it ends with the first of them that ends.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use clap::Parser;
use finetune_operator::api::MANAGER;
use finetune_operator::api::status::Phase;
use finetune_operator::controller::settings::Settings;
use finetune_operator::controller::{Context, KnownRuns, RunStore, run};
use finetune_operator::lease::Lease;
use finetune_operator::metrics::Metrics;
use finetune_operator::report::PodTokens;
use finetune_operator::{report, server, telemetry};
use futures::StreamExt;
use futures::channel::mpsc::unbounded;
use futures::future::ready;
use futures::stream::FuturesUnordered;
use kube::runtime::events::{Recorder, Reporter};
use kube::{Client, Config};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

const LEASE_TTL: Duration = Duration::from_secs(30);
/// Longest time for the steps that run when the process is told to end.
const DRAIN_LIMIT: Duration = Duration::from_secs(20);
const GAUGES_EVERY: Duration = Duration::from_secs(15);

/// A Kubernetes operator that finetunes language models.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Image with finetune-preflight: the operator's own.
    #[arg(long)]
    preflight_image: String,
    /// Pull policy of that image.
    #[arg(long)]
    preflight_pull_policy: Option<String>,
    /// Address at which trainers reach the report endpoint.
    #[arg(long)]
    report_url: String,
    /// Audience of the tokens that trainers report with.
    #[arg(long, default_value = "finetune.dev")]
    report_audience: String,
    /// Prefix of MLflow experiments that a run does not name.
    #[arg(long, default_value = "/finetune")]
    experiment_prefix: String,
    /// Hosts that runs may name as endpoints; none: any that is not denied.
    #[arg(long, value_delimiter = ',')]
    allowed_endpoints: Vec<String>,
    /// Seconds that reading and converting data may take.
    #[arg(long, default_value_t = 86_400)]
    data_deadline_seconds: i64,
    /// Namespaces to work in; none: all.
    #[arg(long, value_delimiter = ',')]
    watch_namespaces: Vec<String>,
    /// Wait for the Lease before reconciling.
    #[arg(long)]
    leader_elect: bool,
    /// Namespace of the Lease.
    #[arg(long, default_value = "finetune-system")]
    lease_namespace: String,
    /// Name of the Lease.
    #[arg(long, default_value = MANAGER)]
    lease_name: String,
    /// Where the report endpoint listens.
    #[arg(long, default_value = "0.0.0.0:8443")]
    report_listen: SocketAddr,
    /// Where metrics and health are served.
    #[arg(long, default_value = "0.0.0.0:8080")]
    http_listen: SocketAddr,
    /// Folder with tls.crt, tls.key and ca.crt of the report endpoint.
    #[arg(long, default_value = "/etc/finetune-operator/tls")]
    tls_dir: PathBuf,
    /// Form of the log.
    #[arg(long, value_enum, default_value_t)]
    log_format: telemetry::LogFormat,
    /// Name of this pod: who holds the Lease, so no two replicas may have the same.
    #[arg(long, env = "POD_NAME", required_if_eq("leader_elect", "true"))]
    pod_name: Option<String>,
    /// Address of this pod, at which other replicas reach its report endpoint.
    #[arg(long, env = "POD_IP")]
    pod_ip: Option<IpAddr>,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("set up the log")]
    Telemetry(#[from] telemetry::TelemetryError),
    #[error("find the API server")]
    Config(#[from] kube::config::InferConfigError),
    #[error("make a client of the API server")]
    Client(#[source] kube::Error),
    #[error("ask the API server for its version")]
    Version(#[source] kube::Error),
    #[error("serve reports")]
    Report(#[from] report::ServeError),
    #[error("serve metrics and health")]
    Server(#[from] server::ServerError),
    #[error("listen for signals")]
    Signal(#[source] std::io::Error),
    #[error("keep the lease")]
    Lease(#[from] finetune_operator::lease::Lost),
    #[error("the controller stopped by itself")]
    Stopped,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    // Both TLS sides use the one provider that is compiled in; a second installation cannot happen.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match work(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "the operator ends");
            eprintln!("finetune-operator: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn work(args: Args) -> Result<(), Error> {
    telemetry::init(args.log_format)?;
    let mut config = Config::infer().await?;
    // A retry that waits unboundedly would outlive the lease; a failed step is tried again by the controller's own backoff.
    config.default_retry = false;
    let client = Client::try_from(config).map_err(Error::Client)?;
    let version = client.apiserver_version().await.map_err(Error::Version)?;
    tracing::info!(kubernetes = version.git_version, version = env!("CARGO_PKG_VERSION"), "finetune-operator starts");

    let shutdown = CancellationToken::new();
    let metrics = Metrics::new();
    let readiness = server::Readiness::default();
    let reports = Arc::new(report::store::Store::default());
    let stores: Arc<OnceLock<Vec<RunStore>>> = Arc::default();
    let http = server::Server::bind(args.http_listen, metrics.clone(), readiness.clone()).await?;
    let address = SocketAddr::new(args.pod_ip.unwrap_or(args.report_listen.ip()), args.report_listen.port()).to_string();
    let mut lease = args
        .pod_name
        .as_deref()
        .filter(|_| args.leader_elect)
        .map(|pod| Lease::new(client.clone(), &args.lease_namespace, &args.lease_name, pod, &address, LEASE_TTL));
    let host = url::Url::parse(&args.report_url).ok().and_then(|url| url.host_str().map(str::to_owned));
    let leader = lease.as_ref().zip(host).map(|(lease, host)| report::Leader { host, address: lease.leader() });
    let endpoint = report::Server::bind(
        report::Config { leader, ..report::Config::new(args.report_listen, args.tls_dir.clone()) },
        PodTokens::new(client.clone(), &args.report_audience),
        KnownRuns::new(stores.clone()),
        reports.clone(),
        metrics.clone(),
    )
    .await?;
    let context = Arc::new(Context {
        settings: Settings {
            preflight_image: args.preflight_image,
            preflight_pull_policy: args.preflight_pull_policy,
            report_url: args.report_url,
            report_audience: args.report_audience,
            experiment_prefix: args.experiment_prefix,
            data_deadline_seconds: args.data_deadline_seconds,
            allowed_endpoints: args.allowed_endpoints,
        },
        reports,
        ca_file: args.tls_dir.join("ca.crt"),
        recorder: Recorder::new(client.clone(), Reporter { controller: MANAGER.to_owned(), instance: args.pod_name }),
        metrics,
        failures: Mutex::new(HashMap::new()),
        client: client.clone(),
    });
    readiness.set(true);

    let work = lead(&context, lease.as_mut(), args.watch_namespaces, &stores, &shutdown);
    let result = tokio::select! {
        result = endpoint.serve(CancellationToken::new()) => result.map_err(Error::from),
        result = http.serve(CancellationToken::new()) => result.map_err(Error::from),
        result = work => result,
        result = signalled(&shutdown) => result,
    };
    shutdown.cancel();
    if let Some(lease) = lease
        && let Err(error) = lease.release().await
    {
        tracing::warn!(error = &error as &dyn std::error::Error, "release the lease");
    }
    result
}

/// Waits for the lease, then reconciles until it is lost or the process shall end.
async fn lead(
    context: &Arc<Context>,
    lease: Option<&mut Lease>,
    namespaces: Vec<String>,
    stores: &OnceLock<Vec<RunStore>>,
    shutdown: &CancellationToken,
) -> Result<(), Error> {
    let Some(lease) = lease else {
        return control(context, namespaces, stores, shutdown).await;
    };
    lease.acquire().await;
    tracing::info!("this replica leads");
    tokio::select! {
        result = control(context, namespaces, stores, shutdown) => result,
        lost = lease.hold() => Err(lost.into()),
    }
}

async fn control(
    context: &Arc<Context>,
    namespaces: Vec<String>,
    stores: &OnceLock<Vec<RunStore>>,
    shutdown: &CancellationToken,
) -> Result<(), Error> {
    let watched: Vec<Option<String>> = if namespaces.is_empty() { vec![None] } else { namespaces.into_iter().map(Some).collect() };
    let mut known = Vec::new();
    let mut senders = Vec::new();
    let controllers = FuturesUnordered::new();
    for namespace in watched.iter().map(Option::as_deref) {
        let (sender, triggers) = unbounded();
        senders.push((namespace, sender));
        let (store, controller) = run(context, namespace, triggers, shutdown.clone());
        known.push(store);
        controllers.push(controller);
    }
    let _ = stores.set(known);
    // One reader may take the triggers: each controller gets those of its own namespace. The store bounds their rate.
    let forward = context.reports.clone().triggers().for_each(|(namespace, name)| {
        let own = |watched: Option<&str>| watched.is_none_or(|watched| watched == namespace);
        for (_, sender) in senders.iter().filter(|(watched, _)| own(*watched)) {
            let _ = sender.unbounded_send((namespace.clone(), name.clone()));
        }
        ready(())
    });
    let gauges = async {
        loop {
            tokio::time::sleep(GAUGES_EVERY).await;
            count(context, stores);
        }
    };
    tokio::select! {
        () = controllers.for_each(|()| ready(())) => {}
        () = forward => {}
        () = gauges => {}
    }
    if shutdown.is_cancelled() { Ok(()) } else { Err(Error::Stopped) }
}

fn count(context: &Context, stores: &OnceLock<Vec<RunStore>>) {
    let runs: Vec<_> = stores.get().into_iter().flatten().flat_map(RunStore::state).collect();
    let phase = |run: &finetune_operator::api::FinetuneRun| run.status.as_ref().and_then(|status| status.phase).unwrap_or(Phase::Pending);
    context.metrics.runs_by_phase(runs.iter().filter_map(|run| run.0.as_ref().ok()).map(phase));
    context.metrics.unreadable(runs.iter().filter(|run| run.0.is_err()).count());
}

/// The first signal ends the process gracefully: no new step begins, running ones finish.
async fn signalled(shutdown: &CancellationToken) -> Result<(), Error> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Signal)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("told to end");
    shutdown.cancel();
    tokio::time::sleep(DRAIN_LIMIT).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use super::Args;

    #[test]
    fn a_lease_needs_a_name_of_its_own() {
        let args = |more: &[&str]| {
            let needed = ["finetune-operator", "--preflight-image", "i", "--report-url", "https://h"];
            let command = Args::command().mut_arg("pod_name", |name| name.env(None::<&str>));
            command.try_get_matches_from(needed.iter().chain(more)).map(|_| ()).map_err(|error| error.kind())
        };
        assert_eq!(args(&[]), Ok(()));
        assert_eq!(args(&["--leader-elect"]), Err(ErrorKind::MissingRequiredArgument));
        assert_eq!(args(&["--leader-elect", "--pod-name", "a"]), Ok(()));
    }
}
