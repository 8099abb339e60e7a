//! A real API server for a test binary: started once by the test bed, gone when the binary ends.
//!
//! No controllers run in it unless named: a test plays the Job controller by patching statuses.

#![allow(dead_code, reason = "each test binary uses a part of it")]

#[path = "../testbed/mod.rs"]
pub(crate) mod testbed;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client, Config};

/// Longest wait for anything that the API server does by itself.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running etcd and API server.
pub(crate) struct ControlPlane {
    directory: PathBuf,
    // The program ends when its standard input closes, which the end of this process does in any case.
    _process: Child,
}

/// The control plane of this test binary.
pub(crate) fn control_plane() -> &'static ControlPlane {
    static RUNNING: OnceLock<ControlPlane> = OnceLock::new();
    RUNNING.get_or_init(|| ControlPlane::start(&[]))
}

impl ControlPlane {
    /// Starts one with the `controllers` of the controller manager that are named; one a test binary and set of controllers.
    pub(crate) fn start(controllers: &[&str]) -> Self {
        let binary = std::env::current_exe().expect("a test binary has a path");
        let name = binary.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("control-plane-{name}-{}", controllers.join("-")));
        std::fs::create_dir_all(&directory).expect("the target folder is writable");
        let mut command = Command::new(testbed::program());
        command.arg("control-plane").arg("--dir").arg(&directory);
        if !controllers.is_empty() {
            command.arg("--controllers").arg(controllers.join(","));
        }
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the test bed's program starts");
        let output = process.stdout.take().expect("its output is a pipe");
        let mut lines = BufReader::new(output).lines();
        assert!(lines.any(|line| line.is_ok_and(|line| line == "ready")), "the control plane ended before it was ready: see {}", directory.display());
        Self { directory, _process: process }
    }

    /// The administrator's kubeconfig.
    pub(crate) fn kubeconfig(&self) -> String {
        self.directory.join("kubeconfig").to_string_lossy().into_owned()
    }

    /// An administrator's client. It belongs to the calling test: a client must not outlive the runtime that it was made in.
    pub(crate) async fn client(&self) -> Client {
        self.client_as(None).await
    }

    /// A client of the user `name`, in no group but that of all users.
    pub(crate) async fn user(&self, name: &str) -> Client {
        self.client_as(Some(name)).await
    }

    async fn client_as(&self, user: Option<&str>) -> Client {
        let file = Kubeconfig::read_from(self.kubeconfig()).expect("the control plane wrote its kubeconfig");
        let mut config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.expect("its kubeconfig is complete");
        config.auth_info.impersonate = user.map(str::to_owned);
        Client::try_from(config).expect("a client from a complete configuration")
    }

    /// Applies `crds/` and waits until the API server serves it.
    pub(crate) async fn install_crds(&self) {
        let crds = Api::<CustomResourceDefinition>::all(self.client().await);
        for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/crds")).expect("crds/ is there") {
            let text = std::fs::read_to_string(entry.expect("crds/ is readable").path()).expect("a CRD is a text file");
            let crd: CustomResourceDefinition = serde_saphyr::from_str(&text).expect("a CRD is YAML");
            let name = crd.metadata.name.clone().expect("a CRD has a name");
            crds.patch(&name, &PatchParams::apply("tests").force(), &Patch::Apply(&crd)).await.expect("the API server takes the CRD");
            within(await_condition(crds.clone(), &name, conditions::is_crd_established())).await.expect("the CRD is watched");
        }
    }

    /// Makes a namespace with a name of its own, which begins with `prefix`.
    pub(crate) async fn namespace(&self, prefix: &str) -> String {
        let metadata = ObjectMeta { generate_name: Some(format!("{prefix}-")), ..ObjectMeta::default() };
        let namespaces = Api::<Namespace>::all(self.client().await);
        let made = namespaces.create(&PostParams::default(), &Namespace { metadata, ..Namespace::default() }).await;
        made.expect("an administrator may make a namespace").metadata.name.expect("the API server made a name")
    }

    /// Runs helm against this API server, and returns what it printed.
    pub(crate) fn helm(&self, arguments: &[&str]) -> String {
        let kubeconfig = self.kubeconfig();
        testbed::succeeded(&testbed::helm(&[&["--kubeconfig", &kubeconfig], arguments].concat()))
    }
}

/// What `future` yields, or a failed test: nothing waits for ever.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it happens within a minute")
}
