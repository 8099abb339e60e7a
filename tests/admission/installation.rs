//! The chart's life in a cluster of its own: installed, upgraded, uninstalled and installed again.

use axum::http::Method;
use serde_json::{Value, json};

use crate::control_plane::ControlPlane;
use crate::request::{GROUP, get, run, runs, send};
use crate::{RELEASE, SYSTEM, chart, samples};

const JSON: &str = "application/json";

#[tokio::test]
async fn an_upgrade_keeps_the_certificate_and_takes_over_the_runtimes_and_an_uninstallation_keeps_the_runs() {
    let cluster = ControlPlane::start(&["clusterrole-aggregation-controller"]);
    let client = cluster.client().await;
    let chart = chart();
    let secret = format!("/api/v1/namespaces/{SYSTEM}/secrets/{RELEASE}-tls");
    let runtime = format!("{GROUP}/finetuneruntimes/llm-foundry");

    cluster.helm(&["install", RELEASE, &chart, "--namespace", SYSTEM, "--create-namespace"]);
    let certificate = get(&client, &secret, JSON).await["data"].clone();
    let keys: Vec<_> = certificate.as_object().expect("a Secret has data").keys().map(String::as_str).collect();
    assert_eq!(keys, ["ca.crt", "tls.crt", "tls.key"]);
    let made = get(&client, &runtime, JSON).await["metadata"]["uid"].clone();
    let namespace = cluster.namespace("team").await;
    send(&client, Method::POST, &runs(&namespace), &run("mine", &samples::smallest_run())).await.expect("runs are served");

    cluster.helm(&["upgrade", RELEASE, &chart, "--namespace", SYSTEM]);
    assert_eq!(get(&client, &secret, JSON).await["data"], certificate);
    assert_eq!(get(&client, &runtime, JSON).await["metadata"]["uid"], made);
    assert!(cluster.helm(&["get", "manifest", RELEASE, "--namespace", SYSTEM]).contains("kind: FinetuneRuntime"));

    cluster.helm(&["uninstall", RELEASE, "--namespace", SYSTEM]);
    assert_eq!(items(&client, &format!("{GROUP}/finetuneruntimes")).await, Vec::<String>::new());
    assert_eq!(items(&client, &runs(&namespace)).await, ["mine"]);

    cluster.helm(&["install", RELEASE, &chart, "--namespace", SYSTEM]);
    assert_eq!(items(&client, &runs(&namespace)).await, ["mine"]);
    assert_eq!(items(&client, &format!("{GROUP}/finetuneruntimes")).await, ["llm-foundry"]);
}

async fn items(client: &kube::Client, path: &str) -> Vec<String> {
    let list = get(client, path, JSON).await;
    let name = |item: &Value| item["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    list["items"].as_array().expect("a list has items").iter().map(name).collect()
}

#[tokio::test]
async fn the_operator_is_allowed_no_verb_on_secrets_anywhere() {
    let client = crate::cluster().await.client().await;
    for verb in ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"] {
        for namespace in [SYSTEM, "default", ""] {
            let review = json!({
                "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
                "spec": {
                    "user": format!("system:serviceaccount:{SYSTEM}:{RELEASE}"),
                    "groups": ["system:serviceaccounts", format!("system:serviceaccounts:{SYSTEM}"), "system:authenticated"],
                    "resourceAttributes": {"namespace": namespace, "verb": verb, "resource": "secrets"}
                }
            });
            let answer =
                send(&client, Method::POST, "/apis/authorization.k8s.io/v1/subjectaccessreviews", &review).await.expect("anybody may be asked about");
            assert_eq!(answer["status"]["allowed"], false, "{verb} in {namespace:?}");
        }
    }
}
