//! Requests as kubectl sends them, and refusals as plain data.

use axum::http::{Method, Request};
use kube::Client;
use serde_json::{Value, json};

pub(crate) const GROUP: &str = "/apis/finetune.dev/v1alpha1";

/// Why the API server refused: for each cause the field and the message; without causes the message alone.
pub(crate) type Refused = Vec<(String, String)>;

/// Sends `body` with strict validation, as kubectl does.
pub(crate) async fn send(client: &Client, method: Method, path: &str, body: &Value) -> Result<Value, Refused> {
    let kind = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
    let separator = if path.contains('?') { '&' } else { '?' };
    let request = Request::builder().method(method).uri(format!("{path}{separator}fieldValidation=Strict")).header("content-type", kind);
    let request = request.body(serde_json::to_vec(body).expect("a body is JSON")).expect("a request is well formed");
    match client.request::<Value>(request).await {
        Ok(answer) => Ok(answer),
        Err(kube::Error::Api(status)) => {
            let causes =
                status.details.iter().flat_map(|details| details.causes.clone()).map(|cause| (cause.field, cause.message)).collect::<Vec<_>>();
            Err(if causes.is_empty() { vec![(String::new(), status.message.clone())] } else { causes })
        }
        Err(error) => panic!("{path}: {error}"),
    }
}

/// Fetches `path` in the form that `accept` names.
pub(crate) async fn get(client: &Client, path: &str, accept: &str) -> Value {
    let request = Request::get(path).header("accept", accept).body(Vec::new()).expect("a request is well formed");
    client.request(request).await.expect("the API server has it")
}

pub(crate) fn runs(namespace: &str) -> String {
    format!("{GROUP}/namespaces/{namespace}/finetuneruns")
}

/// A run object.
pub(crate) fn run(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "finetune.dev/v1alpha1", "kind": "FinetuneRun", "metadata": {"name": name}, "spec": spec})
}

/// `target` with `patch` merged into it as RFC 7386 says.
pub(crate) fn merged(target: &Value, patch: &Value) -> Value {
    let (Some(fields), Some(patches)) = (target.as_object(), patch.as_object()) else { return patch.clone() };
    let mut fields = fields.clone();
    for (key, patch) in patches {
        if patch.is_null() {
            fields.remove(key);
        } else {
            let merged = merged(fields.get(key).unwrap_or(&json!({})), patch);
            fields.insert(key.clone(), merged);
        }
    }
    fields.into()
}
