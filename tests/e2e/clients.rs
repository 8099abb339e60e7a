//! Secrets of every kind, found by the clients that need them in a pod of the train stage.

use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::api::core::v1::Pod;
use kube::api::LogParams;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::bed::{self, Result, TEAM};
use crate::scene::{PREFLIGHT, Scene};

const KEY: &str = "from cryptography.hazmat.primitives import serialization as s; from cryptography.hazmat.primitives.asymmetric import rsa; \
    print(rsa.generate_private_key(65537, 2048).private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()).decode(), end='')";

/// What stands in the values of these Secrets, and must stand nowhere else.
pub(crate) const CANARIES: [&str; 5] = ["canary-of-", "canaryOf", "c0ffee00", "Y2FuYXJ5LW9mLWF6dXJl", "PRIVATE KEY"];

pub(crate) async fn every_client_finds_its_credentials_by_itself(scene: &Scene) -> Result<()> {
    let python = std::env::var("FINETUNE_TRAINER").map(|path| Path::new(&path).join("bin/python"))?;
    let pem = bed::call(&python, &["-c", KEY], &[]).await?;
    // Its clients ask the host for its configuration: one that nobody serves would be asked for minutes.
    let host = "http://mlflow.demo-services.svc:5000";
    let google = json!({"type": "service_account", "project_id": "canary-project", "private_key_id": "1", "private_key": pem,
        "client_email": "canary@canary-project.iam.gserviceaccount.com", "token_uri": "https://oauth2.googleapis.com/token"});
    // The path of the key is the user's own, not that of the mount.
    let oracle = "[DEFAULT]\nuser=ocid1.user.oc1..canary\ntenancy=ocid1.tenancy.oc1..canary\nregion=us-ashburn-1\n\
        fingerprint=00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff\nkey_file=~/mine.pem\n";
    let wandb = "c0ffee00".repeat(5);
    let account_key = CANARIES[3];
    let secrets = [
        ("gcp", None, json!({"credentials": google.to_string()})),
        ("oci", None, json!({"config": oracle, "key_file": pem})),
        ("azure", None, json!({"AZURE_STORAGE_ACCOUNT_NAME": "canaryaccount", "AZURE_STORAGE_ACCOUNT_KEY": account_key})),
        ("databricks", None, json!({"DATABRICKS_HOST": host, "DATABRICKS_TOKEN": "dapi-canary-of-databricks"})),
        ("hf", None, json!({"HF_TOKEN": "hf_canaryOfHuggingFace"})),
        ("wandb", None, json!({"WANDB_API_KEY": wandb})),
        ("mlflow", None, json!({"MLFLOW_TRACKING_USERNAME": "canary", "MLFLOW_TRACKING_PASSWORD": "canary-of-mlflow"})),
        ("env", Some("CLIENTS_VARIABLE"), json!({"CLIENTS_VARIABLE": "canary-of-a-variable"})),
        ("mounted", Some("licence.txt"), json!({"licence.txt": "canary-of-a-file"})),
    ];
    let mut names = vec![json!({"name": "s3-credentials", "kind": "s3"})];
    for (kind, key, data) in &secrets {
        let name = format!("clients-{kind}");
        scene
            .bed
            .apply_object(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": TEAM}, "stringData": data}))
            .await?;
        names.push(json!({"name": name, "kind": kind, "key": key}));
    }
    runtime(scene).await?;
    let changes = json!({"model": "demo/clients", "secrets": names, "disableCredentialsCheck": true, "registerTo": null, "experimentTracker": null,
        "evalDataPath": null, "evalPrompts": null});
    scene.create("instruction", "clients", changes).await?;
    scene.end("clients", PREFLIGHT).await?;

    let log = log(scene).await?;
    let line = log.lines().find_map(|line| line.strip_prefix("FOUND ")).ok_or_else(|| format!("the program says nothing: {log}"))?;
    let found: BTreeMap<String, String> = serde_json::from_str(line)?;
    let (access, secret) = (scene.bed.value("TESTBED_S3_KEY"), scene.bed.value("TESTBED_S3_SECRET"));
    let expected: BTreeMap<String, String> = [
        ("boto3", vec![access, secret]),
        ("google", vec!["canary-project", "canary@canary-project.iam.gserviceaccount.com"]),
        ("oracle", vec!["ocid1.user.oc1..canary", &pem]),
        ("azure", vec!["canaryaccount", account_key]),
        ("databricks", vec![host, "dapi-canary-of-databricks"]),
        ("huggingface", vec!["hf_canaryOfHuggingFace"]),
        ("wandb", vec![&wandb]),
        ("mlflow", vec!["canary", "canary-of-mlflow"]),
        ("variable", vec!["canary-of-a-variable"]),
        ("mounted", vec!["canary-of-a-file"]),
    ]
    .map(|(client, values)| (client.to_owned(), format!("{:x}", Sha256::digest(values.join("\n")))))
    .into();
    assert_eq!(found, expected);
    for canary in CANARIES.into_iter().chain([secret]) {
        assert!(!log.contains(canary), "a credential stands in the log of the pod");
    }
    Ok(())
}

/// The demo's runtime and model, but what runs in the pod is the program that lies beside this file.
async fn runtime(scene: &Scene) -> Result<()> {
    let program = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "clients", "namespace": TEAM},
        "data": {"clients.py": include_str!("clients.py")}});
    scene.bed.apply_object(&program).await?;
    for (file, name) in [("runtime-demo", "clients"), ("model-tiny-llama", "clients")] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(format!("{file}.yaml"));
        let mut object: Value = serde_saphyr::from_str(&std::fs::read_to_string(path)?)?;
        object["metadata"]["name"] = json!(name);
        if object["kind"] == "FinetuneModel" {
            object["spec"]["name"] = json!("demo/clients");
            object["spec"]["runtime"] = json!("clients");
        } else {
            object["spec"]["command"] = json!(["/opt/finetune/venv/bin/python", "/opt/clients/clients.py"]);
            let overrides = &mut object["spec"]["podOverrides"];
            let lists = [
                ("volumes", json!({"name": "clients", "configMap": {"name": "clients"}})),
                ("volumeMounts", json!({"name": "clients", "mountPath": "/opt/clients"})),
            ];
            for (list, item) in lists {
                overrides[list].as_array_mut().ok_or("the overrides are lists")?.push(item);
            }
        }
        scene.bed.apply_object(&object).await?;
    }
    Ok(())
}

async fn log(scene: &Scene) -> Result<String> {
    let pods = scene.pods("clients").await?;
    let pod = pods.iter().find(|pod| pod.labels().get("finetune.dev/stage").is_some_and(|stage| stage == "train")).ok_or("there is no train pod")?;
    let api: Api<Pod> = Api::namespaced(scene.bed.client.clone(), TEAM);
    Ok(api.logs(&pod.name_any(), &LogParams::default()).await?)
}
