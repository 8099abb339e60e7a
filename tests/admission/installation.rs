//! The chart's life in a cluster of its own: installed, upgraded, uninstalled and installed again.

use std::time::Duration;

use axum::http::Method;
use kube::Client;
use serde_json::{Value, json};

use crate::control_plane::{ControlPlane, within};
use crate::request::{GROUP, get, run, runs, send};
use crate::{RELEASE, SYSTEM, chart, samples};

const JSON: &str = "application/json";
/// The catalogue is long; all other tests are in a cluster that has it.
const NO_MODELS: &str = "catalogue.enabled=false";

#[tokio::test]
async fn an_upgrade_keeps_the_certificate_an_uninstallation_the_runs_and_every_switch_can_be_turned_on_later() {
    let cluster = ControlPlane::start(&["clusterrole-aggregation-controller"]);
    let client = cluster.client().await;
    let chart = chart();
    let secret = format!("/api/v1/namespaces/{SYSTEM}/secrets/{RELEASE}-tls");
    let runtime = format!("{GROUP}/finetuneruntimes/llm-foundry");

    cluster.helm(&["install", RELEASE, &chart, "--namespace", SYSTEM, "--create-namespace", "--set", NO_MODELS]);
    let certificate = get(&client, &secret, JSON).await["data"].clone();
    let keys: Vec<_> = certificate.as_object().expect("a Secret has data").keys().map(String::as_str).collect();
    assert_eq!(keys, ["ca.crt", "tls.crt", "tls.key"]);
    let made = get(&client, &runtime, JSON).await["metadata"]["uid"].clone();
    let namespace = cluster.namespace("team").await;
    send(&client, Method::POST, &runs(&namespace), &run("mine", &samples::smallest_run())).await.expect("runs are served");

    cluster.helm(&["upgrade", RELEASE, &chart, "--namespace", SYSTEM, "--set", NO_MODELS]);
    assert_eq!(get(&client, &secret, JSON).await["data"], certificate);
    assert_eq!(get(&client, &runtime, JSON).await["metadata"]["uid"], made);
    assert!(cluster.helm(&["get", "manifest", RELEASE, "--namespace", SYSTEM]).contains("kind: FinetuneRuntime"));

    cluster.helm(&["uninstall", RELEASE, "--namespace", SYSTEM]);
    assert_eq!(items(&client, &format!("{GROUP}/finetuneruntimes")).await, Vec::<String>::new());
    assert_eq!(items(&client, &runs(&namespace)).await, ["mine"]);

    cluster.helm(&["install", RELEASE, &chart, "--namespace", SYSTEM, "--set", NO_MODELS]);
    assert_eq!(items(&client, &runs(&namespace)).await, ["mine"]);
    get(&client, &runtime, JSON).await;

    let everything = format!(
        "{NO_MODELS},watchNamespaces={{{namespace}}},runnerNamespaces={{{namespace}}},replicas=2,podDisruptionBudget.enabled=true,networkPolicy.enabled=true,networkPolicy.runs=true,networkPolicy.apiServerCidrs={{10.0.0.0/8}}"
    );
    cluster.helm(&["upgrade", RELEASE, &chart, "--namespace", SYSTEM, "--set", &everything]);
    assert!(items(&client, &format!("/api/v1/namespaces/{namespace}/serviceaccounts")).await.contains(&"finetune-runner".to_owned()));
    let operator = format!("system:serviceaccount:{SYSTEM}:{RELEASE}");
    within(until_allowed(&client, &operator, &namespace, "create", "batch", "jobs")).await;
    assert!(!allowed(&client, &operator, "default", "create", "batch", "jobs").await);

    for (role, user) in [("view", "victor"), ("edit", "edith")] {
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": role},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}]
        });
        let path = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings");
        send(&client, Method::POST, &path, &binding).await.expect("an administrator binds roles");
    }
    within(until_allowed(&client, "victor", &namespace, "watch", "finetune.dev", "finetuneruns")).await;
    within(until_allowed(&client, "edith", &namespace, "create", "finetune.dev", "finetuneruns")).await;
    assert!(!allowed(&client, "victor", &namespace, "create", "finetune.dev", "finetuneruns").await);
    assert!(!allowed(&client, "edith", &namespace, "patch", "finetune.dev", "finetuneruns/status").await);
}

/// Roles take effect a moment after they were written.
async fn until_allowed(client: &Client, user: &str, namespace: &str, verb: &str, group: &str, resource: &str) {
    while !allowed(client, user, namespace, verb, group, resource).await {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn allowed(client: &Client, user: &str, namespace: &str, verb: &str, group: &str, resource: &str) -> bool {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {
            "user": user,
            "groups": ["system:serviceaccounts", format!("system:serviceaccounts:{SYSTEM}"), "system:authenticated"],
            "resourceAttributes": {"namespace": namespace, "verb": verb, "group": group, "resource": resource, "subresource": subresource}
        }
    });
    let answer = send(client, Method::POST, "/apis/authorization.k8s.io/v1/subjectaccessreviews", &review).await;
    answer.expect("anybody may be asked about")["status"]["allowed"] == true
}

async fn items(client: &Client, path: &str) -> Vec<String> {
    let list = get(client, path, JSON).await;
    let name = |item: &Value| item["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    list["items"].as_array().expect("a list has items").iter().map(name).collect()
}

#[tokio::test]
async fn the_operator_is_allowed_no_verb_on_secrets_anywhere() {
    let client = crate::cluster().await.client().await;
    for verb in ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"] {
        for namespace in [SYSTEM, "default", ""] {
            let operator = format!("system:serviceaccount:{SYSTEM}:{RELEASE}");
            assert!(!allowed(&client, &operator, namespace, verb, "", "secrets").await, "{verb} in {namespace:?}");
        }
    }
}
