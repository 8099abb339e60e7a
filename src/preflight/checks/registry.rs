//! `Registry`: the name can be that of a registered model, and the registry answers. Makes nothing.

use super::mlflow::Server;
use super::{Context, Outcome};
use crate::preflight::failure::{Failure, error_code};
use crate::preflight::plan::MlflowTarget;

pub(super) async fn check(context: &Context, target: &MlflowTarget, name: &str) -> Outcome {
    let parts: Vec<_> = name.split('.').collect();
    let is_name = matches!(parts.len(), 2 | 3) && parts.iter().all(|part| !part.is_empty() && !part.contains(['/', ':', ' ']));
    if !is_name {
        return Err(Failure::user("RegistryNameInvalid", format!("{name} is no name of a model: write catalog.schema or catalog.schema.model")));
    }
    let server = Server::new(context, target)?;
    let doing = format!("look up the registered model {name} at {}", server.name());
    if !server.is_databricks {
        let answer = server.get("2.0/mlflow/registered-models/get", &[("name", name)], &doing).await?;
        let is_free = error_code(&answer) == Some("RESOURCE_DOES_NOT_EXIST");
        return if answer.status == 200 || is_free { Ok(()) } else { Err(server.failure(&doing, &answer)) };
    }
    let model = server.get(&format!("2.1/unity-catalog/models/{name}"), &[], &doing).await?;
    if model.status == 200 {
        return Ok(());
    }
    let schema = parts[..2].join(".");
    let doing = format!("look up the schema {schema} at {}", server.name());
    let answer = server.get(&format!("2.1/unity-catalog/schemas/{schema}"), &[], &doing).await?;
    match answer.status {
        200 => Ok(()),
        404 => Err(Failure::user("SchemaMissing", format!("there is no catalog or schema {schema}; make it or set another registerTo"))),
        _ => Err(server.failure(&doing, &answer)),
    }
}
