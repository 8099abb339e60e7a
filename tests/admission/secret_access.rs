//! Who may name a Secret in a run: only who may read it, until the run is accepted and for every user alike.

use std::time::Duration;

use axum::http::Method;
use kube::Client;
use serde_json::{Value, json};

use crate::control_plane::within;
use crate::request::{Refused, merged, run, runs, send};
use crate::{ControlPlane, cluster, samples};

/// A namespace in which `alice` may get the Secret `hers`, `bob` all of them and `carol` none; all three may write runs.
async fn team(cluster: &ControlPlane) -> String {
    let admin = cluster.client().await;
    let namespace = cluster.namespace("team").await;
    let rbac = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}");
    let write = json!({"apiGroups": ["finetune.dev", ""], "resources": ["finetuneruns", "configmaps"], "verbs": ["get", "create", "update", "patch", "delete"]});
    let grants = [
        ("alice", json!([write, {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["hers"], "verbs": ["get"]}])),
        ("bob", json!([write, {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}])),
        ("carol", json!([write, {"apiGroups": [""], "resources": ["secrets"], "verbs": ["list", "create"]}])),
    ];
    for (user, rules) in grants {
        let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": user}, "rules": rules});
        send(&admin, Method::POST, &format!("{rbac}/roles"), &role).await.expect("an administrator makes roles");
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": user},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": user},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}]
        });
        send(&admin, Method::POST, &format!("{rbac}/rolebindings"), &binding).await.expect("an administrator binds roles");
    }
    let carol = cluster.user("carol").await;
    within(async {
        // The API server takes up a policy, and a role, a moment after it was made.
        while !create(&carol, &namespace, "probe", &["any"]).await.is_err_and(|refused| refused[0].1.contains("you may not get")) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    namespace
}

fn spec(secrets: &[&str]) -> Value {
    let secrets: Vec<_> = secrets.iter().map(|name| json!({"name": name, "kind": "s3"})).collect();
    merged(&samples::smallest_run(), &json!({"secrets": secrets}))
}

async fn create(client: &Client, namespace: &str, name: &str, secrets: &[&str]) -> Result<Value, Refused> {
    send(client, Method::POST, &format!("{}?dryRun=All", runs(namespace)), &run(name, &spec(secrets))).await
}

fn denial(place: usize, secret: &str, namespace: &str) -> String {
    format!(
        "spec.secrets[{place}].name: you may not get the Secret \"{secret}\" in namespace \"{namespace}\", so no run of yours may use it: ask for the verb get on this Secret, or name another"
    )
}

#[tokio::test]
async fn who_creates_a_run_must_be_allowed_to_get_each_secret_that_it_names() {
    let cluster = cluster().await;
    let namespace = team(cluster).await;
    let last_of_16: Vec<_> = [["hers"; 15].as_slice(), &["other"]].concat();
    let cases: [(&str, &[&str], Option<usize>); 12] = [
        ("alice", &[], None),
        ("alice", &["hers"], None),
        ("alice", &["other"], Some(0)),
        ("alice", &["hers", "other"], Some(1)),
        ("alice", &last_of_16, Some(15)),
        ("alice", &["hers"; 16], None),
        ("bob", &[], None),
        ("bob", &["other"], None),
        ("bob", &["hers", "other", "third"], None),
        ("bob", &["other"; 16], None),
        ("carol", &[], None),
        ("carol", &["hers"], Some(0)),
    ];
    for (user, secrets, refused) in cases {
        let answered = create(&cluster.user(user).await, &namespace, "sample", secrets).await;
        match refused {
            None => assert!(answered.is_ok(), "{user} {secrets:?}: {answered:?}"),
            Some(place) => {
                let refused = answered.expect_err(user);
                assert!(
                    matches!(&refused[..], [(_, message)] if message.ends_with(&denial(place, secrets[place], &namespace))),
                    "{user} {secrets:?}: {refused:?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn nobody_redirects_anothers_secrets_before_the_run_is_accepted_and_anybody_who_may_edit_it_stops_it_afterwards() {
    let cluster = cluster().await;
    let namespace = team(cluster).await;
    let (admin, alice, bob) = (cluster.client().await, cluster.user("alice").await, cluster.user("bob").await);
    let path = format!("{}/of-bob", runs(&namespace));
    send(&bob, Method::POST, &runs(&namespace), &run("of-bob", &spec(&["other"]))).await.expect("bob may get all Secrets");
    let redirected =
        send(&alice, Method::PATCH, &path, &json!({"spec": {"s3": {"endpointUrl": "https://elsewhere"}}})).await.expect_err("alice may not");
    assert!(redirected[0].1.ends_with(&denial(0, "other", &namespace)), "{redirected:?}");
    send(&alice, Method::PATCH, &path, &json!({"metadata": {"labels": {"seen": "yes"}}})).await.expect("labels reach no pod");
    send(&admin, Method::PATCH, &format!("{path}/status"), &json!({"status": {"specHash": "0123"}})).await.expect("as the operator does");
    send(&alice, Method::PATCH, &path, &json!({"spec": {"suspend": true}})).await.expect("alice may edit runs");
    send(&alice, Method::DELETE, &path, &json!({})).await.expect("alice may delete runs");
}

#[tokio::test]
async fn only_who_may_get_all_secrets_writes_the_defaults_that_every_run_of_the_namespace_uses() {
    let cluster = cluster().await;
    let namespace = team(cluster).await;
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    let defaults = |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"defaults.yaml": "{}"}});
    let refused =
        send(&cluster.user("alice").await, Method::POST, &path, &defaults("finetune-defaults")).await.expect_err("alice may get one Secret");
    let message = format!(
        "the ConfigMap finetune-defaults names Secrets for every run of namespace \"{namespace}\": only who may get all Secrets of the namespace may write it"
    );
    assert!(matches!(&refused[..], [(_, said)] if said.ends_with(&message)), "{refused:?}");
    send(&cluster.user("alice").await, Method::POST, &path, &defaults("her-own")).await.expect("other ConfigMaps are not looked at");
    send(&cluster.user("bob").await, Method::POST, &path, &defaults("finetune-defaults")).await.expect("bob may get all Secrets");
}
