//! What must hold after all runs: no credential anywhere but in its Secret, and an operator that never asked for one.

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{ListParams, LogParams};

use crate::bed::{Result, TEAM};
use crate::clients::CANARIES;
use crate::scene::Scene;

const NAMESPACES: [&str; 2] = [TEAM, "finetune-system"];

pub(crate) async fn no_credential_left_its_secret(scene: &Scene) -> Result<()> {
    let stores = [scene.bed.value("TESTBED_S3_SECRET"), scene.bed.value("TESTBED_S3_READONLY_SECRET"), "not-the-secret-key"];
    let secrets: Vec<&str> = stores.into_iter().chain(CANARIES).collect();
    assert!(secrets.iter().all(|secret| secret.len() >= 8));
    let mut places = vec![("the objects of all kinds but Secrets".to_owned(), objects(scene).await?)];
    for namespace in NAMESPACES {
        let pods: Api<Pod> = Api::namespaced(scene.bed.client.clone(), namespace);
        for pod in pods.list(&ListParams::default()).await?.items {
            let name = pod.metadata.name.unwrap_or_default();
            // A pod whose container never started has no log.
            if let Ok(log) = pods.logs(&name, &LogParams::default()).await {
                places.push((format!("the log of pod {namespace}/{name}"), log));
            }
        }
    }
    assert!(places.len() > 10, "only {} places were looked at", places.len());
    for (place, text) in &places {
        for (index, secret) in secrets.iter().enumerate() {
            assert!(!text.contains(secret), "credential {index} stands in {place}");
        }
    }
    Ok(())
}

async fn objects(scene: &Scene) -> Result<String> {
    let mut text = String::new();
    for kind in ["finetuneruns", "jobs", "pods", "configmaps", "events"] {
        for namespace in NAMESPACES {
            text.push_str(&scene.bed.kubectl(&["get", kind, "-n", namespace, "-o", "json"]).await?);
        }
    }
    Ok(text)
}

/// From the API server's own audit log, which the operator cannot write.
pub(crate) async fn the_operator_never_asked_for_a_secret(scene: &Scene) -> Result<()> {
    let log = std::fs::read_to_string(scene.bed.value("TESTBED_AUDIT_LOG"))?;
    let operator = "system:serviceaccount:finetune-system:finetune-operator";
    let (mut requests, mut of_secrets, mut refused) = (0, 0, Vec::new());
    for line in log.lines() {
        let Ok(event) = serde_json::from_str::<serde_json::Value>(line) else { continue };
        if event["user"]["username"] != operator || event["stage"] != "ResponseComplete" {
            continue;
        }
        requests += 1;
        if event["objectRef"]["resource"] == "secrets" {
            of_secrets += 1;
        }
        if event["responseStatus"]["code"] == 403 {
            refused.push(format!("{} {}", event["verb"], event["objectRef"]["resource"]));
        }
    }
    assert!(requests > 100, "only {requests} requests of the operator were logged");
    assert_eq!((of_secrets, refused), (0, Vec::new()));
    Ok(())
}
