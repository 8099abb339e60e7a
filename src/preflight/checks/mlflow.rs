//! `Mlflow`: the experiment is there or is made; and, when all else is proved, the one run that all attempts log to.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::service::Service;
use super::{Context, Outcome};
use crate::api::secret_ref::SecretKind;
use crate::preflight::dial::Login;
use crate::preflight::failure::{Failure, error_code};
use crate::preflight::plan::MlflowTarget;
use crate::preflight::verdict::MlflowRun;

/// Field of the run that the check is about.
pub const FIELD: &str = "spec.experimentTracker.mlflow";
const UID_TAG: &str = "finetune.run-uid";

/// A tracking server, with who speaks to it.
pub(super) struct Tracker {
    pub(super) service: Service,
    pub(super) is_databricks: bool,
}

fn is_databricks(target: &MlflowTarget) -> bool {
    target.tracking_uri.as_deref().is_none_or(|uri| uri == "databricks")
}

/// Whether the server's Secret is usable, or none is named.
pub(super) fn is_usable(context: &Context, target: &MlflowTarget) -> bool {
    let kind = if is_databricks(target) { SecretKind::Databricks } else { SecretKind::Mlflow };
    !context.secrets.is_broken(kind)
}

impl Tracker {
    pub(super) fn new(context: &Context, target: &MlflowTarget) -> Result<Self, Failure> {
        if is_databricks(target) {
            return Ok(Self { service: Service::databricks(context)?, is_databricks: true });
        }
        let value = |key| context.secrets.value(SecretKind::Mlflow, key);
        let login = match (value("MLFLOW_TRACKING_USERNAME"), value("MLFLOW_TRACKING_PASSWORD"), value("MLFLOW_TRACKING_TOKEN")) {
            (Some(user), Some(password), _) => Login::User(user, password),
            (_, _, Some(token)) => Login::Token(token),
            _ => Login::Nobody,
        };
        let credential = match context.secrets.of(SecretKind::Mlflow) {
            Some(secret) => format!("the credential of Secret {}", secret.name),
            None => "nobody: the run names no Secret of kind mlflow".to_owned(),
        };
        let service = Service::new(context, target.tracking_uri.as_deref().unwrap_or_default(), login, credential);
        Ok(Self { service, is_databricks: false })
    }

    /// The experiment's id; it is made where there is none.
    async fn experiment(&self, path: &str) -> Result<String, Failure> {
        let doing = format!("get or make the experiment {path} at {}", self.service.address);
        if self.is_databricks && !path.starts_with('/') {
            let message = format!("{path} is no path of an experiment in a workspace: write /Users/<you>/<name> or /Shared/<name>");
            return Err(Failure::user("ExperimentPathInvalid", message));
        }
        // Another run may make it between our two questions: then it is there the second time.
        for _ in 0..2 {
            let found = self.service.get("/api/2.0/mlflow/experiments/get-by-name", &[("experiment_name", path)], &doing).await?;
            if found.status == 200 {
                let experiment = &found.body["experiment"];
                if experiment["lifecycle_stage"] == "deleted" {
                    let message = format!("the experiment {path} at {} was deleted; restore it or set another experimentPath", self.service.address);
                    return Err(Failure::user("ExperimentDeleted", message));
                }
                return id(&experiment["experiment_id"]).ok_or_else(|| nonsense(&doing));
            }
            if error_code(&found) != Some("RESOURCE_DOES_NOT_EXIST") {
                return Err(self.service.failure(&doing, &found));
            }
            let made = self.service.post("/api/2.0/mlflow/experiments/create", &json!({"name": path}), &doing).await?;
            if made.status == 200 {
                return id(&made.body["experiment_id"]).ok_or_else(|| nonsense(&doing));
            }
            if error_code(&made) != Some("RESOURCE_ALREADY_EXISTS") {
                return Err(self.service.failure(&doing, &made));
            }
        }
        Err(nonsense(&doing))
    }

    async fn run(&self, experiment: &str, name: &str, uid: &str) -> Result<String, Failure> {
        let doing = format!("find or make the run {name} in experiment {experiment} at {}", self.service.address);
        let search = json!({"experiment_ids": [experiment], "filter": format!("tags.`{UID_TAG}` = '{uid}'"), "max_results": 10,
            "order_by": ["attributes.start_time ASC"]});
        let found = self.service.post("/api/2.0/mlflow/runs/search", &search, &doing).await?;
        if found.status != 200 {
            return Err(self.service.failure(&doing, &found));
        }
        if let Some(run) = found.body["runs"].as_array().and_then(|runs| runs.first()) {
            return id(&run["info"]["run_id"]).ok_or_else(|| nonsense(&doing));
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
        let body = json!({"experiment_id": experiment, "run_name": name, "start_time": now,
            "tags": [{"key": UID_TAG, "value": uid}, {"key": "mlflow.runName", "value": name}]});
        let made = self.service.post("/api/2.0/mlflow/runs/create", &body, &doing).await?;
        if made.status != 200 {
            return Err(self.service.failure(&doing, &made));
        }
        id(&made.body["run"]["info"]["run_id"]).ok_or_else(|| nonsense(&doing))
    }
}

fn nonsense(doing: &str) -> Failure {
    Failure::user("NotMlflow", format!("cannot {doing}: the answer is not that of an MLflow server; check trackingUri"))
}

/// An id becomes part of an address and of a variable: it is a plain word.
fn id(value: &Value) -> Option<String> {
    let text = value.as_str()?;
    (!text.is_empty() && text.len() <= 64 && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')).then(|| text.to_owned())
}

pub(super) async fn check(context: &Context, target: &MlflowTarget) -> Outcome {
    Tracker::new(context, target)?.experiment(&target.experiment_path).await.map(|_| ())
}

/// The run that all attempts log to: found by the run's uid, or made.
pub async fn make_run(context: &Context, target: &MlflowTarget) -> Result<MlflowRun, Failure> {
    let server = Tracker::new(context, target)?;
    let run = &context.plan.run;
    if run.uid.contains(['\'', '`']) {
        return Err(Failure::user("UidInvalid", "the run's uid is none".to_owned()));
    }
    let experiment_id = server.experiment(&target.experiment_path).await?;
    let run_id = server.run(&experiment_id, &run.name, &run.uid).await?;
    let root = if server.is_databricks { "ml" } else { "#" };
    let url = format!("{}/{root}/experiments/{experiment_id}/runs/{run_id}", server.service.address);
    Ok(MlflowRun { experiment_id, run_id, url: Some(url) })
}
