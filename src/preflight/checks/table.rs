//! `TrainData` and `EvalData` in a table of Unity Catalog: it is there and may be read. Reads its description only.

use super::service::{Service, escaped};
use super::{Context, Outcome};
use crate::api::TaskType;
use crate::preflight::failure::Failure;

pub(super) async fn check(context: &Context, name: &str) -> Outcome {
    if context.plan.task_type == TaskType::ContinuedPretrain {
        return Err(Failure::user("PlaceInvalid", format!("{name} is a table, but this task reads a folder of .txt files; name one")));
    }
    let workspace = Service::databricks(context)?;
    let doing = format!("read the table {name} at {}", workspace.address);
    let answer = workspace.get(&format!("/api/2.1/unity-catalog/tables/{}", escaped(name)), &[], &doing).await?;
    match answer.status {
        200 => Ok(()),
        404 => Err(Failure::user("TableMissing", format!("there is no table {name} at {}; make it or name another", workspace.address))),
        _ => Err(workspace.failure(&doing, &answer)),
    }
}
