//! Derived from the schema: once a run is accepted, no field of its spec but two can be set, unset or changed.

use axum::http::Method;
use finetune_operator::api::crd;
use kube::Client;
use serde_json::{Value, json};

use crate::request::{Refused, merged, run, runs, send};
use crate::{cluster, samples};

/// One edit of a run's spec.
struct Edit {
    field: &'static str,
    what: String,
    from: Value,
    to: Value,
}

#[test]
fn the_samples_have_a_value_for_every_field_of_the_schema() {
    let schema = samples::spec_schema("finetuneruns");
    let mut with_sample: Vec<_> = samples::run_fields().into_iter().map(|(field, ..)| field.to_owned()).collect();
    with_sample.push("adapter".to_owned());
    with_sample.sort();
    assert_eq!(schema["properties"].as_object().map(|fields| fields.keys().cloned().collect()), Some(with_sample));
    for (field, _, value, other) in samples::run_fields() {
        for (pointer, _) in samples::nodes("", &schema["properties"][field]) {
            assert!(value.pointer(&pointer).is_some(), "{field}{pointer} has no value");
            assert_ne!(value.pointer(&pointer), other.pointer(&pointer), "{field}{pointer} has no other value");
        }
    }
}

/// Every way to set, unset or change one value anywhere below `field`.
fn edits((field, beside, value, other): (&'static str, Value, Value, Value), schema: &Value) -> Vec<Edit> {
    let full = merged(&merged(&samples::smallest_run(), &beside), &json!({field: value}));
    let mut edits = Vec::new();
    for (pointer, _) in samples::nodes(&format!("/{field}"), &schema["properties"][field]) {
        let mut changed = full.clone();
        let below = pointer.strip_prefix(&format!("/{field}")).unwrap_or_default();
        *changed.pointer_mut(&pointer).expect("the sample is full") = other.pointer(below).expect("the other sample is full").clone();
        edits.push(Edit { field, what: format!("change {pointer}"), from: full.clone(), to: changed });
        let (parent, name) = pointer.rsplit_once('/').expect("a pointer has a slash");
        let mut without = full.clone();
        let object = without.pointer_mut(parent).and_then(Value::as_object_mut);
        if object.is_some_and(|object| object.remove(name).is_some()) && !required(schema, parent, name) {
            edits.push(Edit { field, what: format!("unset {pointer}"), from: full.clone(), to: without.clone() });
            edits.push(Edit { field, what: format!("set {pointer}"), from: without, to: full.clone() });
        }
    }
    edits
}

fn required(schema: &Value, parent: &str, name: &str) -> bool {
    let parent = parent.split('/').skip(1).fold(schema, |schema, part| if part == "0" { &schema["items"] } else { &schema["properties"][part] });
    parent["required"].as_array().is_some_and(|required| required.contains(&json!(name)))
}

fn all_edits() -> Vec<Edit> {
    let schema = samples::spec_schema("finetuneruns");
    let mut all: Vec<_> = samples::run_fields().into_iter().flat_map(|field| edits(field, &schema)).collect();
    let from = samples::smallest_run();
    all.push(Edit { field: "adapter", what: "set /adapter".to_owned(), to: merged(&from, &json!({"adapter": "lora"})), from });
    all
}

/// Makes the run `name` of `edit.from`, with `status`, and says how its edit would be answered.
async fn answer(client: &Client, path: &str, name: &str, edit: &Edit, status: Option<Value>) -> Result<(), Refused> {
    let mut made = send(client, Method::POST, path, &run(name, &edit.from)).await.unwrap_or_else(|refused| panic!("{}: {refused:?}", edit.what));
    if let Some(status) = status {
        made = send(client, Method::PATCH, &format!("{path}/{name}/status"), &json!({"status": status}))
            .await
            .expect("an administrator writes a status");
    }
    made["spec"] = edit.to.clone();
    send(client, Method::PUT, &format!("{path}/{name}?dryRun=All"), &made).await.map(drop)
}

#[tokio::test]
async fn once_a_run_is_accepted_nothing_but_suspend_and_scheduling_can_be_set_unset_or_changed() {
    let cluster = cluster().await;
    let client = cluster.client().await;
    let path = runs(&cluster.namespace("fixed").await);
    for (number, edit) in all_edits().into_iter().enumerate() {
        let answered = answer(&client, &path, &format!("run-{number}"), &edit, Some(json!({"specHash": "0123"}))).await;
        let field = edit.field;
        if crd::MUTABLE.contains(&field) {
            assert_eq!(answered, Ok(()), "{}", edit.what);
            continue;
        }
        let refused = answered.expect_err(&edit.what);
        let expected = (format!("spec.{field}"), format!("Forbidden: {field} cannot change once the run is accepted: make a new run"));
        let others: Vec<_> = refused.iter().filter(|cause| **cause != expected).collect();
        assert!(refused.contains(&expected), "{}: {refused:?}", edit.what);
        assert!(others.is_empty() || field == "adapter", "{}: {others:?}", edit.what);
    }
}

#[tokio::test]
async fn until_a_run_is_accepted_every_field_can_be_set_unset_and_changed() {
    let cluster = cluster().await;
    let client = cluster.client().await;
    let path = runs(&cluster.namespace("open").await);
    for (number, edit) in all_edits().into_iter().filter(|edit| edit.field != "adapter").enumerate() {
        assert_eq!(answer(&client, &path, &format!("new-{number}"), &edit, None).await, Ok(()), "{} of a new run", edit.what);
        let pending = Some(json!({"phase": "Pending"}));
        assert_eq!(answer(&client, &path, &format!("pending-{number}"), &edit, pending).await, Ok(()), "{} of a pending run", edit.what);
    }
}
