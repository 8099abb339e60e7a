//! The report endpoint as a trainer meets it: TLS, a token that the API server made for its pod, and an answer.

use std::collections::BTreeMap;
use std::sync::Arc;

use finetune_operator::api::names;
use finetune_operator::api::status::Stage;
use finetune_operator::metrics::Metrics;
use finetune_operator::report::store::Store;
use finetune_operator::report::{Config, CurrentRun, PodTokens, Runs, Server, tls};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{PATIENCE, certificate, control_plane};

const AUDIENCE: &str = "finetune.dev";
const RUN_UID: &str = "7f3c2c9e-0000-4000-8000-000000000001";
const ACCOUNT: &str = "finetune-runner";

/// One run, `r`, whose first attempt is current.
struct OneRun {
    namespace: String,
    job_uid: String,
}

impl Runs for OneRun {
    fn ready(&self) -> bool {
        true
    }

    fn current(&self, namespace: &str, name: &str) -> Option<CurrentRun> {
        ((namespace, name) == (self.namespace.as_str(), "r")).then(|| CurrentRun {
            uid: RUN_UID.to_owned(),
            attempt: 0,
            job_uid: Some(self.job_uid.clone()),
            outputs: "s3://out/team-a/r".to_owned(),
            ended: false,
        })
    }
}

struct Namespace {
    client: Client,
    name: String,
}

impl Namespace {
    async fn new() -> Self {
        let cluster = control_plane();
        let made = Self { client: cluster.client().await, name: cluster.namespace("reports").await };
        let account = serde_json::from_value(json!({"metadata": {"name": ACCOUNT}})).expect("a ServiceAccount");
        made.api::<ServiceAccount>().create(&PostParams::default(), &account).await.expect("the ServiceAccount is made");
        made
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.name)
    }

    async fn job(&self, name: &str) -> Job {
        let template = json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "trainer", "image": "none"}]}});
        let job = serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"template": template}})).expect("a Job");
        self.api().create(&PostParams::default(), &job).await.expect("the Job is made")
    }

    async fn pod(&self, name: &str, job: Option<&Job>) -> Pod {
        let owners: Vec<OwnerReference> = job.and_then(|job| job.controller_owner_ref(&())).into_iter().collect();
        let spec = json!({"serviceAccountName": ACCOUNT, "containers": [{"name": "trainer", "image": "none"}]});
        let pod = serde_json::from_value(json!({"metadata": {"name": name, "ownerReferences": owners}, "spec": spec})).expect("a Pod");
        self.api().create(&PostParams::default(), &pod).await.expect("the Pod is made")
    }

    async fn token(&self, audience: &str, pod: Option<&Pod>) -> String {
        let bound = pod.map(|pod| BoundObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(pod.name_any()),
            uid: pod.uid(),
        });
        let spec = TokenRequestSpec { audiences: vec![audience.to_owned()], bound_object_ref: bound, expiration_seconds: Some(600) };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let accounts = self.api::<ServiceAccount>();
        let made = accounts.create_token_request(ACCOUNT, &PostParams::default(), &request).await.expect("a token is made");
        made.status.expect("a made token has a status").token
    }
}

#[tokio::test]
async fn only_the_token_that_the_pod_of_the_current_job_mounts_reports_for_a_run() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let namespace = Namespace::new().await;
    let job = namespace.job(&names::job("r", RUN_UID, Stage::Train, 0)).await;
    let trainer = namespace.pod("trainer", Some(&job)).await;
    let next = namespace.pod("next", Some(&namespace.job(&names::job("r", RUN_UID, Stage::Train, 1)).await)).await;
    let register = namespace.pod("register", Some(&namespace.job(&names::job("r", RUN_UID, Stage::Register, 0)).await)).await;
    let stranger = namespace.pod("stranger", None).await;
    let gone = namespace.pod("gone", Some(&job)).await;
    let late = namespace.token(AUDIENCE, Some(&gone)).await;
    namespace.api::<Pod>().delete("gone", &DeleteParams::default().grace_period(0)).await.expect("the pod is deleted");
    let tokens: BTreeMap<_, _> = [
        ("the trainer", namespace.token(AUDIENCE, Some(&trainer)).await),
        ("the trainer, for the API server", namespace.token("https://kubernetes.default.svc", Some(&trainer)).await),
        ("no pod", namespace.token(AUDIENCE, None).await),
        ("a pod that is gone", late),
        ("the next attempt", namespace.token(AUDIENCE, Some(&next)).await),
        ("the register pod", namespace.token(AUDIENCE, Some(&register)).await),
        ("a pod without a Job", namespace.token(AUDIENCE, Some(&stranger)).await),
        ("no token of this cluster", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.".to_owned()),
    ]
    .into();

    let dir = tempfile::tempdir().expect("a folder");
    certificate::write(dir.path());
    let runs = OneRun { namespace: namespace.name.clone(), job_uid: job.uid().expect("a uid") };
    let (store, shutdown) = (Arc::new(Store::default()), CancellationToken::new());
    let config = Config::new(([127, 0, 0, 1], 0).into(), dir.path().to_owned());
    let proof = PodTokens::new(namespace.client.clone(), AUDIENCE);
    let server = Server::bind(config, proof, runs, Arc::clone(&store), Metrics::new()).await.expect("a free port");
    let url = format!("https://localhost:{}/v1/namespaces/{}/runs/r/report", server.local_addr().port(), namespace.name);
    let serving = tokio::spawn(server.serve(shutdown.clone()));
    let authority = tls::authority(dir.path()).await.expect("the authority was written");
    let authority = reqwest::Certificate::from_pem(authority.as_bytes()).expect("PEM");
    let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).tls_certs_only([authority]).build().expect("a client");

    let mut answers = BTreeMap::new();
    for (sender, token) in &tokens {
        let body = json!({"attempt": 0, "start": "s", "sequence": 1, "progress": {"step": 3}}).to_string();
        let answer = client.post(&url).bearer_auth(token).body(body).send().await.expect("an answer");
        answers.insert(*sender, answer.status().as_u16());
    }
    assert_eq!(
        answers,
        [
            ("the trainer", 204),
            ("the trainer, for the API server", 401),
            ("no pod", 401),
            ("a pod that is gone", 401),
            ("the next attempt", 503),
            ("the register pod", 403),
            ("a pod without a Job", 403),
            ("no token of this cluster", 401),
        ]
        .into()
    );
    assert_eq!(store.latest(RUN_UID, 0).expect("the trainer's report").report.progress.step, Some(3));
    assert_eq!(store.len(), 1);
    shutdown.cancel();
    serving.await.expect("no panic").expect("a clean end");
}
