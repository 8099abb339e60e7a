//! A Databricks workspace that answers as its published REST API does: files of volumes, tables, clusters, models, privileges.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::response::Response;
use serde_json::{Value, json};
use url::Url;

use super::{CANARY, Seen, Server, answer, json_answer};

/// Host of the workspace in the Secret.
pub(in crate::preflight) const HOST: &str = "dbc-1.cloud.databricks.com";
/// Whose token it is.
pub(in crate::preflight) const ME: &str = "me@example.com";

/// What is in a workspace.
#[derive(Default)]
pub(in crate::preflight) struct Content {
    /// Content by path, from `/Volumes` on.
    pub(in crate::preflight) files: BTreeMap<String, Vec<u8>>,
    /// Status that every path below is answered with.
    pub(in crate::preflight) refused: BTreeMap<String, u16>,
    pub(in crate::preflight) tables: Vec<String>,
    pub(in crate::preflight) clusters: Vec<Value>,
    /// Owner by full name.
    pub(in crate::preflight) models: BTreeMap<String, String>,
    /// Privileges of the token's user by kind and name: `schema/main.models`.
    pub(in crate::preflight) privileges: BTreeMap<String, Vec<String>>,
    /// Artifacts by run id.
    pub(in crate::preflight) artifacts: BTreeMap<String, Vec<String>>,
    pub(in crate::preflight) experiments: Vec<String>,
}

pub(in crate::preflight) type Shared = Arc<Mutex<Content>>;

pub(in crate::preflight) async fn workspace(content: Content) -> (Server, Shared) {
    let shared = Arc::new(Mutex::new(content));
    let held = Arc::clone(&shared);
    (Server::answering(move |seen| respond(&mut held.lock().unwrap(), seen)).await, shared)
}

fn error(status: u16, code: &str) -> Response {
    json_answer(status, &json!({"error_code": code, "message": format!("{code} {CANARY}")}))
}

fn respond(content: &mut Content, seen: &Seen) -> Response {
    if seen.authorization.as_deref() != Some(&format!("Bearer {CANARY}")) {
        return error(401, "UNAUTHENTICATED");
    }
    if seen.headers.get("host").and_then(|host| host.to_str().ok()) != Some(HOST) {
        return error(400, "WRONG_HOST");
    }
    let url = Url::parse(&format!("https://{HOST}{}", seen.path)).unwrap();
    let path = url.path_segments().unwrap().map(decoded).collect::<Vec<_>>().join("/");
    let query: BTreeMap<String, String> = url.query_pairs().into_owned().collect();
    let get = |name: &str| query.get(name).cloned().unwrap_or_default();
    if let Some((_, status)) = content.refused.iter().find(|(refused, _)| path.starts_with(refused.as_str())) {
        return error(*status, "PERMISSION_DENIED");
    }
    let body: Value = serde_json::from_slice(&seen.body).unwrap_or_default();
    let method = seen.method.as_str();
    if let Some(path) = path.strip_prefix("api/2.0/fs/files") {
        return file(content, seen, method, path, &get("overwrite"));
    }
    if let Some(path) = path.strip_prefix("api/2.0/fs/directories") {
        return directory(content, path, &get("page_size"), &get("page_token"));
    }
    if let Some(name) = path.strip_prefix("api/2.1/unity-catalog/tables/") {
        let is_there = content.tables.iter().any(|table| table == name);
        return if is_there { json_answer(200, &json!({"full_name": name})) } else { error(404, "TABLE_DOES_NOT_EXIST") };
    }
    if let Some(name) = path.strip_prefix("api/2.1/unity-catalog/effective-permissions/") {
        let Some(privileges) = content.privileges.get(name) else { return error(404, "DOES_NOT_EXIST") };
        assert_eq!(get("principal"), ME);
        let privileges: Vec<_> = privileges.iter().map(|held| json!({"privilege": held})).collect();
        // The first page may be empty and still not be the last.
        return if get("page_token").is_empty() {
            json_answer(200, &json!({"next_page_token": "2"}))
        } else {
            json_answer(200, &json!({"privilege_assignments": [{"principal": ME, "privileges": privileges}]}))
        };
    }
    match (method, path.as_str()) {
        ("GET", "api/2.0/preview/scim/v2/Me") => json_answer(200, &json!({"userName": ME})),
        ("GET", "api/2.1/clusters/get") => {
            let found = content.clusters.iter().find(|cluster| cluster["cluster_id"] == get("cluster_id").as_str());
            found.map_or_else(|| error(400, "INVALID_PARAMETER_VALUE"), |cluster| json_answer(200, cluster))
        }
        ("GET", "api/2.1/clusters/list") => {
            // One on each page.
            let index = get("page_token").parse().unwrap_or(0_usize);
            let visible: Vec<_> = content.clusters.iter().filter(|cluster| cluster["hidden"] != true).collect();
            let next = (index + 1 < visible.len()).then(|| (index + 1).to_string());
            json_answer(200, &json!({"clusters": visible.get(index..=index).unwrap_or_default(), "next_page_token": next}))
        }
        ("POST", "api/2.1/unity-catalog/models") => {
            let [catalog, schema, name] = ["catalog_name", "schema_name", "name"].map(|key| body[key].as_str().unwrap().to_owned());
            if !content.privileges.contains_key(&format!("schema/{catalog}.{schema}")) {
                return error(404, "SCHEMA_DOES_NOT_EXIST");
            }
            let name = format!("{catalog}.{schema}.{name}");
            if content.models.contains_key(&name) {
                return error(409, "RESOURCE_ALREADY_EXISTS");
            }
            content.models.insert(name.clone(), ME.to_owned());
            json_answer(200, &json!({"full_name": name}))
        }
        ("GET" | "DELETE", path) if path.starts_with("api/2.1/unity-catalog/models/") => {
            let name = path.trim_start_matches("api/2.1/unity-catalog/models/");
            let Some(owner) = content.models.get(name).cloned() else { return error(404, "RESOURCE_DOES_NOT_EXIST") };
            if method == "DELETE" {
                content.models.remove(name);
                return json_answer(200, &json!({}));
            }
            json_answer(200, &json!({"full_name": name, "owner": owner}))
        }
        ("GET", "api/2.0/mlflow/artifacts/list") => {
            let Some(paths) = content.artifacts.get(&get("run_id")) else { return error(404, "RESOURCE_DOES_NOT_EXIST") };
            let below = if get("path").is_empty() { String::new() } else { format!("{}/", get("path")) };
            let files: Vec<_> = paths.iter().filter(|path| path.strip_prefix(&below).is_some_and(|rest| !rest.contains('/'))).collect();
            json_answer(200, &json!({"files": files.iter().map(|path| json!({"path": path, "is_dir": false})).collect::<Vec<_>>()}))
        }
        ("GET", "api/2.0/mlflow/experiments/get-by-name") => {
            let id = content.experiments.iter().position(|name| *name == get("experiment_name"));
            id.map_or_else(|| error(404, "RESOURCE_DOES_NOT_EXIST"), |id| json_answer(200, &json!({"experiment": {"experiment_id": id.to_string()}})))
        }
        ("POST", "api/2.0/mlflow/experiments/create") => {
            content.experiments.push(body["name"].as_str().unwrap().to_owned());
            json_answer(200, &json!({"experiment_id": (content.experiments.len() - 1).to_string()}))
        }
        _ => error(404, "ENDPOINT_NOT_FOUND"),
    }
}

fn decoded(part: &str) -> String {
    url::form_urlencoded::parse(format!("x={}", part.replace('+', "%2B")).as_bytes()).next().map(|(_, value)| value.into_owned()).unwrap_or_default()
}

fn file(content: &mut Content, seen: &Seen, method: &str, path: &str, overwrite: &str) -> Response {
    match method {
        "PUT" if overwrite != "true" && content.files.contains_key(path) => error(409, "ALREADY_EXISTS"),
        "PUT" => {
            content.files.insert(path.to_owned(), seen.body.clone());
            answer(204, "")
        }
        "DELETE" => {
            if content.files.remove(path).is_some() {
                answer(204, "")
            } else {
                error(404, "NOT_FOUND")
            }
        }
        _ => match content.files.get(path) {
            None if method == "HEAD" => answer(404, ""),
            None => error(404, "NOT_FOUND"),
            Some(bytes) => super::content(seen, bytes),
        },
    }
}

fn directory(content: &Content, path: &str, size: &str, token: &str) -> Response {
    let below = format!("{}/", path.trim_end_matches('/'));
    let mut entries = BTreeMap::new();
    for (name, bytes) in content.files.iter().filter(|(name, _)| name.starts_with(&below)) {
        let rest = &name[below.len()..];
        let entry = match rest.split_once('/') {
            Some((folder, _)) => json!({"path": format!("{below}{folder}"), "name": folder, "is_directory": true}),
            None => json!({"path": name, "name": rest, "is_directory": false, "file_size": bytes.len(), "last_modified": 1_767_225_600_000_i64}),
        };
        entries.insert(entry["path"].as_str().unwrap().to_owned(), entry);
    }
    if entries.is_empty() {
        return error(404, "NOT_FOUND");
    }
    assert_eq!(size, "1000");
    // Two on each page, whatever is asked for.
    let start = token.parse().unwrap_or(0_usize);
    let page: Vec<_> = entries.values().skip(start).take(2).collect();
    let next = (start + 2 < entries.len()).then(|| (start + 2).to_string());
    json_answer(200, &json!({"contents": page, "next_page_token": next}))
}
