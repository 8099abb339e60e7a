//! `Registry`: a model can be registered under the name. In Unity Catalog that is tried with a model of another name, which is deleted again
//! whatever happens.

use reqwest::Method;
use serde_json::json;

use super::mlflow::Tracker;
use super::service::{Service, escaped};
use super::{Context, Outcome};
use crate::preflight::failure::{Failure, error_code};
use crate::preflight::plan::MlflowTarget;

const MOST_PAGES: usize = 20;
const MODELS: &str = "/api/2.1/unity-catalog/models";

pub(super) async fn check(context: &Context, target: &MlflowTarget, name: &str) -> Outcome {
    let parts: Vec<_> = name.split('.').collect();
    let is_name = matches!(parts.len(), 2 | 3) && parts.iter().all(|part| !part.is_empty() && !part.contains(['/', ':', ' ']));
    if !is_name {
        return Err(Failure::user("RegistryNameInvalid", format!("{name} is no name of a model: write catalog.schema or catalog.schema.model")));
    }
    let Tracker { service, is_databricks } = Tracker::new(context, target)?;
    if is_databricks {
        return unity_catalog(context, service, &parts).await;
    }
    let doing = format!("look up the registered model {name} at {}", service.address);
    let answer = service.get("/api/2.0/mlflow/registered-models/get", &[("name", name)], &doing).await?;
    let is_free = error_code(&answer) == Some("RESOURCE_DOES_NOT_EXIST");
    if answer.status == 200 || is_free { Ok(()) } else { Err(service.failure(&doing, &answer)) }
}

async fn unity_catalog(context: &Context, workspace: Service, parts: &[&str]) -> Outcome {
    let (catalog, schema) = (parts[0], parts[1]);
    if let [_, _, _] = parts {
        let name = parts.join(".");
        let doing = format!("look up the registered model {name} at {}", workspace.address);
        let model = workspace.get(&format!("{MODELS}/{}", escaped(&name)), &[], &doing).await?;
        match model.status {
            200 => {
                let me = me(&workspace).await?;
                if model.body["owner"] != me.as_str() {
                    let message = format!(
                        "the model {name} exists and the token's user {me} does not own it: set another registerTo, or have it given to that user"
                    );
                    return Err(Failure::credential("ModelNotOwned", message));
                }
                held(&workspace, "catalog", catalog, &me, &["ALL_PRIVILEGES", "USE_CATALOG"]).await?;
                return held(&workspace, "schema", &format!("{catalog}.{schema}"), &me, &["ALL_PRIVILEGES", "USE_SCHEMA"]).await;
            }
            403 => return Err(workspace.failure(&doing, &model)),
            // Absent, or of a catalog or schema that is: making one tells.
            _ => {}
        }
    }
    let probe = format!("finetune-preflight-probe-{}", context.plan.run.uid);
    context.finish(made_and_deleted(workspace, catalog.to_owned(), schema.to_owned(), probe)).await
}

/// The name of the token's user.
async fn me(workspace: &Service) -> Result<String, Failure> {
    let doing = format!("look up the user of the token at {}", workspace.address);
    let answer = workspace.get("/api/2.0/preview/scim/v2/Me", &[], &doing).await?;
    match answer.body["userName"].as_str() {
        Some(name) if answer.status == 200 => Ok(name.chars().filter(|c| !c.is_control()).take(128).collect()),
        _ => Err(workspace.failure(&doing, &answer)),
    }
}

/// The user holds one of the privileges, directly or not.
async fn held(workspace: &Service, kind: &str, name: &str, me: &str, needed: &[&str]) -> Outcome {
    let doing = format!("look up privileges on the {kind} {name} at {}", workspace.address);
    let path = format!("/api/2.1/unity-catalog/effective-permissions/{kind}/{}", escaped(name));
    let found = workspace.all(&path, &[("principal", me), ("max_results", "0")], "privilege_assignments", MOST_PAGES, &doing).await?;
    let assignments = match found {
        Ok(assignments) => assignments,
        Err(answer) if answer.status == 404 => return Err(missing(kind, name)),
        Err(answer) => return Err(workspace.failure(&doing, &answer)),
    };
    let mut privileges = assignments.iter().filter_map(|assignment| assignment["privileges"].as_array()).flatten();
    if privileges.any(|held| held["privilege"].as_str().is_some_and(|held| needed.contains(&held))) {
        return Ok(());
    }
    let message = format!("the token's user {me} holds none of {} on the {kind} {name}: grant one, or set another registerTo", needed.join(", "));
    Err(Failure::credential("PrivilegeMissing", message))
}

fn missing(kind: &str, name: &str) -> Failure {
    let reason = if kind == "catalog" { "CatalogMissing" } else { "SchemaMissing" };
    Failure::user(reason, format!("there is no {kind} {name} that the token may see; make it or set another registerTo"))
}

/// The probe's name is the run's: what a killed preflight left is deleted by the next.
async fn made_and_deleted(workspace: Service, catalog: String, schema: String, probe: String) -> Outcome {
    let doing = format!("register a model in {catalog}.{schema} at {}", workspace.address);
    let body = json!({"catalog_name": catalog, "schema_name": schema, "name": probe, "comment": "made and deleted by the preflight of a run"});
    let made = workspace.post(MODELS, &body, &doing).await;
    let result = match &made {
        Ok(answer) if answer.status == 200 && answer.body["full_name"].is_string() => Ok(()),
        Ok(answer) if matches!(error_code(answer), Some("ALREADY_EXISTS" | "RESOURCE_ALREADY_EXISTS")) => Ok(()),
        Ok(answer) if answer.status == 404 => return Err(missing("schema", &format!("{catalog}.{schema}"))),
        Ok(answer) if answer.status == 403 => {
            let refused = workspace.failure(&doing, answer);
            let message = format!("{}: USE CATALOG, USE SCHEMA and CREATE MODEL are needed", refused.message);
            return Err(Failure { message, ..refused });
        }
        Ok(answer) => Err(workspace.failure(&doing, answer)),
        // It may have been made all the same.
        Err(failure) => Err(failure.clone()),
    };
    let name = format!("{catalog}.{schema}.{probe}");
    let doing = format!("delete the probe {name} at {}", workspace.address);
    let deleted = workspace.ask(Method::DELETE, &format!("{MODELS}/{}", escaped(&name)), None, &doing).await;
    result?;
    match deleted? {
        answer if matches!(answer.status, 200 | 204 | 404) => Ok(()),
        answer => {
            let refused = workspace.failure(&doing, &answer);
            Err(Failure { message: format!("{}; delete that model yourself", refused.message), ..refused })
        }
    }
}
