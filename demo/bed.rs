//! A cluster with everything a run needs: the test bed, images, the chart, Secrets, the tiny model and the data.
//! It starts and ends processes, and prints what it does and how long each step took.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use futures::TryStreamExt;
use kube::Client;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path as Key;
use object_store::{ClientOptions, ObjectStore, ObjectStoreExt};
use tokio::process::Command;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Namespace of the demo's runs.
pub(crate) const TEAM: &str = "team-a";
const OPERATOR_IMAGE: &str = "testbed.local/finetune-operator";
const RUNTIME_IMAGE: &str = "testbed.local/finetune-runtime:demo";

/// What `make` built, from the environment that it sets.
#[derive(Clone)]
pub(crate) struct Built {
    /// `testbed/build.sh`: the test bed's program; helm lies beside it.
    testbed: PathBuf,
    /// `runtimes/llm-foundry/environment.sh`: the trainer's virtual environment.
    trainer: PathBuf,
    /// `testbed/base-image.sh`: a root file system with Python.
    base: PathBuf,
    /// Folder with the operator's programs, linked statically.
    programs: PathBuf,
    /// The checkout.
    source: PathBuf,
}

impl Built {
    pub(crate) fn from_env() -> Result<Self> {
        let path = |name: &str| -> Result<PathBuf> {
            let value =
                std::env::var(name).map_err(|_| format!("{name} is not set: use `make demo` or `make test`, which build everything first"))?;
            let path = PathBuf::from(value);
            if path.exists() { Ok(path) } else { Err(format!("{name}: {} does not exist", path.display()).into()) }
        };
        Ok(Self {
            testbed: path("FINETUNE_TESTBED")?,
            trainer: path("FINETUNE_TRAINER")?,
            base: path("FINETUNE_BASE")?,
            programs: path("FINETUNE_PROGRAMS")?,
            source: PathBuf::from(env!("CARGO_MANIFEST_DIR")),
        })
    }

    fn python(&self) -> PathBuf {
        self.trainer.join("bin/python")
    }
}

/// A cluster that is up.
pub(crate) struct Bed {
    pub(crate) built: Built,
    pub(crate) name: String,
    pub(crate) client: Client,
    pub(crate) mlflow: String,
    access: BTreeMap<String, String>,
}

/// Runs `work` as a named step.
pub(crate) async fn step<T>(title: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    let began = Instant::now();
    let result = work.await;
    match &result {
        Ok(_) => println!("  {title}: {:.1} s", began.elapsed().as_secs_f64()),
        Err(error) => println!("  {title}: failed after {:.1} s: {error}", began.elapsed().as_secs_f64()),
    }
    result
}

/// Runs a program to its end; its output is shown only when it fails.
pub(crate) async fn call(program: &Path, arguments: &[&str], environment: &[(&str, String)]) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments).envs(environment.iter().map(|(key, value)| (key, value))).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.map_err(|error| format!("start {}: {error}", program.display()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let shown = arguments.iter().take(2).copied().collect::<Vec<_>>().join(" ");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Err(format!("{} {shown}: {}\n{said}", program.display(), output.status).into())
}

impl Bed {
    /// Brings everything up; an older cluster of this name is ended first.
    pub(crate) async fn up(built: Built, name: &str) -> Result<Self> {
        let scratch = tempfile::tempdir()?;
        let model = scratch.path().join("tiny-llama");
        let (up, made) = tokio::join!(
            step("start etcd, Kubernetes, DNS, the S3 server and MLflow", cluster(&built, name)),
            step("make the tiny model", tiny_model(&built, &model)),
        );
        made?;
        let access = up?;
        let value = |key: &str| access.get(key).cloned().ok_or_else(|| format!("the test bed does not tell {key}"));
        let kubeconfig = kube::config::Kubeconfig::read_from(value("KUBECONFIG")?)?;
        let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default()).await?;
        config.default_retry = false;
        let client = Client::try_from(config)?;
        let bed = Self { mlflow: value("TESTBED_MLFLOW_URL")?, built, name: name.to_owned(), client, access };
        step("build and import the images", bed.images()).await?;
        let (installed, filled) = tokio::join!(step("install the chart", bed.install()), step("upload the model and the data", bed.fill(&model)),);
        installed?;
        filled?;
        Ok(bed)
    }

    /// Ends the cluster and removes all that it left.
    pub(crate) async fn down(&self) -> Result<()> {
        call(&self.built.testbed, &["down", "--name", &self.name], &[]).await.map(|_| ())
    }

    pub(crate) fn value(&self, key: &str) -> &str {
        self.access.get(key).map(String::as_str).unwrap_or_default()
    }

    pub(crate) fn kubeconfig(&self) -> &str {
        self.value("KUBECONFIG")
    }

    /// `kubectl` of the test bed.
    pub(crate) async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let all: Vec<&str> = std::iter::once("kubectl").chain(arguments.iter().copied()).collect();
        call(&self.built.testbed, &all, &[("KUBECONFIG", self.kubeconfig().to_owned())]).await
    }

    /// Applies a file below `examples/`.
    pub(crate) async fn apply(&self, example: &str) -> Result<()> {
        let file = self.built.source.join("examples").join(example);
        self.kubectl(&["apply", "-f", &file.to_string_lossy()]).await.map(|_| ())
    }

    /// A client of one bucket, with all rights.
    pub(crate) fn bucket(&self, bucket: &str) -> Result<AmazonS3> {
        let store = AmazonS3Builder::new()
            .with_bucket_name(bucket)
            .with_endpoint(self.value("TESTBED_S3_URL"))
            .with_access_key_id(self.value("TESTBED_S3_KEY"))
            .with_secret_access_key(self.value("TESTBED_S3_SECRET"))
            .with_region("us-east-1")
            .with_client_options(ClientOptions::new().with_allow_http(true))
            .build()?;
        Ok(store)
    }

    /// All keys of a bucket below a prefix, with their sizes, sorted.
    pub(crate) async fn keys(&self, bucket: &str, prefix: &str) -> Result<BTreeMap<String, u64>> {
        let listed: Vec<_> = self.bucket(bucket)?.list(Some(&Key::from(prefix))).try_collect().await?;
        Ok(listed.into_iter().map(|object| (object.location.to_string(), object.size)).collect())
    }

    async fn images(&self) -> Result<()> {
        let programs = self.built.programs.to_string_lossy();
        let (operator, preflight) =
            (format!("{programs}/finetune-operator:/finetune-operator"), format!("{programs}/finetune-preflight:/finetune-preflight"));
        let image = format!("{OPERATOR_IMAGE}:dev");
        let certificates = "/etc/ssl/certs/ca-certificates.crt:/etc/ssl/certs/ca-certificates.crt";
        let arguments = [
            "image",
            "--name",
            &self.name,
            "--add",
            &operator,
            "--add",
            &preflight,
            "--add",
            certificates,
            "--entrypoint",
            "/finetune-operator",
            &image,
        ];
        call(&self.built.testbed, &arguments, &[]).await?;
        let base = self.built.base.to_string_lossy();
        let package = self.built.source.join("runtimes/llm-foundry/finetune_llmfoundry");
        let package = format!("{}:/opt/finetune/runtime/finetune_llmfoundry", package.display());
        call(&self.built.testbed, &["image", "--name", &self.name, "--from", &base, "--add", &package, RUNTIME_IMAGE], &[]).await?;
        Ok(())
    }

    async fn install(&self) -> Result<()> {
        self.kubectl(&["create", "namespace", TEAM]).await?;
        let claim = serde_json::json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "trainer-environment", "namespace": TEAM},
            "spec": {"accessModes": ["ReadOnlyMany"], "storageClassName": "", "volumeName": "trainer-environment", "resources": {"requests": {"storage": "1Gi"}}}});
        self.apply_object(&claim).await?;
        let helm = self.built.testbed.with_file_name("helm");
        let chart = self.built.source.join("charts/finetune-operator");
        let chart = chart.to_string_lossy();
        let repository = format!("image.repository={OPERATOR_IMAGE}");
        let runners = format!("runnerNamespaces={{{TEAM}}}");
        let arguments = [
            "upgrade",
            "--install",
            "finetune-operator",
            &chart,
            "--namespace",
            "finetune-system",
            "--create-namespace",
            "--wait",
            "--timeout",
            "3m",
            "--set",
            &repository,
            "--set",
            "image.tag=dev",
            "--set",
            "image.pullPolicy=Never",
            "--set",
            &runners,
        ];
        call(&helm, &arguments, &[("KUBECONFIG", self.kubeconfig().to_owned())]).await?;
        for file in ["runtime-demo.yaml", "model-tiny-llama.yaml"] {
            self.apply(file).await?;
        }
        self.s3_secret("s3-credentials", self.value("TESTBED_S3_KEY"), self.value("TESTBED_S3_SECRET")).await?;
        self.s3_secret("wrong-s3-credentials", self.value("TESTBED_S3_KEY"), "not-the-secret-key").await?;
        self.s3_secret("s3-readonly", self.value("TESTBED_S3_READONLY_KEY"), self.value("TESTBED_S3_READONLY_SECRET")).await
    }

    /// Makes or changes a Secret of kind s3.
    pub(crate) async fn s3_secret(&self, name: &str, key: &str, secret: &str) -> Result<()> {
        let object = serde_json::json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": TEAM},
            "stringData": {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}});
        self.apply_object(&object).await
    }

    /// Applies one object, from standard input so that no value stands in a command line.
    pub(crate) async fn apply_object(&self, object: &serde_json::Value) -> Result<()> {
        use tokio::io::AsyncWriteExt;
        let mut child = Command::new(&self.built.testbed)
            .args(["kubectl", "apply", "-f", "-"])
            .env("KUBECONFIG", self.kubeconfig())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut input = child.stdin.take().ok_or("kubectl has no standard input")?;
        input.write_all(object.to_string().as_bytes()).await?;
        drop(input);
        let output = child.wait_with_output().await?;
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned().into()) }
    }

    async fn fill(&self, model: &Path) -> Result<()> {
        upload(&self.bucket("models")?, model, "tiny-llama").await?;
        upload(&self.bucket("data")?, &self.built.source.join("examples/data"), "").await
    }
}

/// Uploads a folder with all that is in it.
async fn upload(store: &AmazonS3, folder: &Path, prefix: &str) -> Result<()> {
    for (file, key) in files(folder, prefix)? {
        store.put(&Key::from(key), std::fs::read(file)?.into()).await?;
    }
    Ok(())
}

/// All files below a folder, with their keys below a prefix.
fn files(folder: &Path, prefix: &str) -> Result<Vec<(PathBuf, String)>> {
    let mut found = Vec::new();
    let mut folders = vec![(folder.to_owned(), prefix.to_owned())];
    while let Some((folder, prefix)) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let key = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
            if entry.file_type()?.is_dir() {
                folders.push((entry.path(), key));
            } else {
                found.push((entry.path(), key));
            }
        }
    }
    found.sort();
    Ok(found)
}

async fn cluster(built: &Built, name: &str) -> Result<BTreeMap<String, String>> {
    let python = built.python();
    let volume = format!("trainer-environment={}", built.trainer.display());
    let state = tempfile_state(name);
    let arguments = ["up", "--name", name, "--state", &state, "--audit", "--mlflow-python", &python.to_string_lossy(), "--host-path-pv", &volume]
        .map(ToOwned::to_owned);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    call(&built.testbed, &arguments, &[]).await?;
    let text = std::fs::read_to_string(Path::new(&state).join("env"))?;
    Ok(text.lines().filter_map(export).collect())
}

/// Where a cluster keeps its files.
fn tempfile_state(name: &str) -> String {
    let cache = std::env::var("FINETUNE_CACHE").unwrap_or_else(|_| format!("{}/.cache/finetune-operator", std::env::var("HOME").unwrap_or_default()));
    format!("{cache}/clusters/{name}")
}

fn export(line: &str) -> Option<(String, String)> {
    let (key, value) = line.strip_prefix("export ")?.split_once('=')?;
    Some((key.to_owned(), value.trim_matches('\'').to_owned()))
}

async fn tiny_model(built: &Built, folder: &Path) -> Result<()> {
    let source = built.source.join("runtimes/llm-foundry");
    let data = built.source.join("examples/data");
    let mut arguments = ["-m", "finetune_llmfoundry", "tiny-model", &folder.to_string_lossy()].map(ToOwned::to_owned).to_vec();
    for (file, _) in files(&data, "")? {
        arguments.extend(["--text".to_owned(), file.to_string_lossy().into_owned()]);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let environment = [("PYTHONPATH", source.to_string_lossy().into_owned()), ("PYTHONDONTWRITEBYTECODE", "1".to_owned())];
    call(&built.python(), &arguments, &environment).await.map(|_| ())
}
