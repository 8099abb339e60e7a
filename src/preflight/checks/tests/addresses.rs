//! The corpus of addresses that lead to this machine, to a metadata service or to the Kubernetes API, by every way that a user's address takes.

use serde_json::{Value, json};

use crate::preflight::address::Policy;
use crate::preflight::fake::{Server, answer, context_of, failures, plan, redirect};

/// Hosts, in every spelling that a URL takes.
const DENIED: [&str; 48] = [
    "127.0.0.1",
    "127.1",
    "127.0.1",
    "127.255.255.254",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0x7f.0.0.1",
    "017700000001",
    "0177.0.0.1",
    "0177.0.0.01",
    "%31%32%37.0.0.1",
    "127.0.0.1.",
    "127。0。0。1",
    "１２７.0.0.1",
    "0",
    "0.0.0.0",
    "0.1.2.3",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "a.localhost",
    "169.254.169.254",
    "169.254.169.254.",
    "2852039166",
    "0xa9fea9fe",
    "0251.0376.0251.0376",
    "0xa9.254.0251.254",
    "169.254.170.2",
    "169.254.1.1",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "metadata.google.internal",
    "METADATA.google.internal.",
    "instance-data.ec2.internal",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
    "10.96.0.1",
    "174063617",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:a9fe:a9fe]",
    "[64:ff9b::169.254.169.254]",
    "[2002:a9fe:a9fe::1]",
    "[fd00:ec2::23]",
    "[fe80::1]",
];

fn policy() -> Policy {
    Policy::strict(Some("10.96.0.1"))
}

async fn reasons(change: impl FnOnce(&mut Value), environment: &[(&str, &str)], stand_ins: &[(&str, &str)]) -> Vec<(String, String)> {
    let folder = tempfile::tempdir().unwrap();
    let mut plan = plan(folder.path());
    // Under this policy no folder is read: only the check in question may fail otherwise.
    plan["model"]["weights"] = json!("pvc://none/model");
    plan["train"] = json!("pvc://none/train.jsonl");
    plan["saveFolder"] = json!("pvc://none/out");
    change(&mut plan);
    let found = failures(&context_of(&plan, environment, policy(), stand_ins)).await;
    found.into_iter().filter(|failure| failure[2] != "VolumeMissing").map(|[name, _, reason, _]| (name, reason)).collect()
}

#[test]
fn no_spelling_of_a_denied_host_passes() {
    for host in DENIED {
        for address in
            [format!("http://{host}/x"), format!("https://{host}:8443/x"), format!("http://good.example@{host}/x"), format!("http://u:p@{host}")]
        {
            assert!(policy().check(&address).is_err(), "{address}");
        }
    }
    for address in
        ["https://127.0.0.1.example", "http://10.96.0.2:9000", "https://localhost.example", "http://s3.demo-services.svc", "https://[2001:db8::1]"]
    {
        assert_eq!(policy().check(address), Ok(()), "{address}");
    }
}

#[tokio::test]
async fn no_field_of_a_run_leads_there() {
    for host in DENIED {
        let address = format!("http://{host}:1");
        let store = |plan: &mut Value| (plan["eval"], plan["s3"]) = (json!("s3://data/x.jsonl"), json!({"endpointUrl": address}));
        assert_eq!(reasons(store, &[], &[]).await, [("EvalData".to_owned(), "AddressDenied".to_owned())], "{host}");
    }
    // The other ways go through the same door: one spelling of each kind.
    for host in ["127.0.0.1", "localhost", "2852039166", "[::ffff:a9fe:a9fe]", "kubernetes.default.svc", "10.96.0.1"] {
        let denied = |name: &str| vec![(name.to_owned(), "AddressDenied".to_owned())];
        let address = format!("http://{host}:1");
        let tracker = |plan: &mut Value| plan["mlflow"] = json!({"trackingUri": address, "experimentPath": "/x"});
        assert_eq!(reasons(tracker, &[], &[]).await, denied("Mlflow"), "{host}");
        let web = |plan: &mut Value| plan["eval"] = json!(format!("https://{host}:1/x.jsonl"));
        assert_eq!(reasons(web, &[], &[]).await, denied("EvalData"), "{host}");
        let hub = |plan: &mut Value| plan["eval"] = json!("entity/data/train");
        assert_eq!(reasons(hub, &[("HF_ENDPOINT", &address)], &[]).await, denied("EvalData"), "{host}");
        let wandb = |plan: &mut Value| plan["wandb"] = json!({"project": "p", "entity": "e"});
        assert_eq!(reasons(wandb, &[("WANDB_BASE_URL", &address)], &[]).await, denied("Wandb"), "{host}");
        let table = |plan: &mut Value| {
            let secret = plan["secrets"].as_array().unwrap().iter().find(|secret| secret["kind"] == "databricks").unwrap();
            std::fs::write(format!("{}/DATABRICKS_HOST", secret["path"].as_str().unwrap()), format!("https://{host}:1")).unwrap();
            (plan["eval"], plan["cluster"]) = (json!("a.b.c"), json!("c"));
        };
        assert_eq!(reasons(table, &[], &[]).await, [denied("EvalData"), denied("Cluster")].concat(), "{host}");
    }
}

#[tokio::test]
async fn no_redirect_leads_there() {
    let inside = Server::answering(|_| answer(200, "x")).await;
    let port = inside.address.rsplit(':').next().unwrap().to_owned();
    for host in ["127.0.0.1", "localhost", "2130706433", "[::ffff:127.0.0.1]", "0"] {
        let to = format!("http://{host}:{port}/x");
        let server = Server::answering(move |_| redirect(302, &to)).await;
        let folder = tempfile::tempdir().unwrap();
        let context = context_of(&plan(folder.path()), &[], policy(), &[("huggingface.co", &server.address)]);
        let file = crate::preflight::checks::Hub::new(&context).file("entity/model", "config.json", 100).await;
        assert_eq!(file.unwrap_err().reason, "AddressDenied", "{host}");
    }
    assert_eq!(inside.seen(), []);
}
