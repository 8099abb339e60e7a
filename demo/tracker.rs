//! Reads MLflow over its REST API.

use serde_json::Value;

use crate::bed::Result;

pub(crate) struct Tracker {
    http: reqwest::Client,
    url: String,
}

impl Tracker {
    pub(crate) fn new(url: &str) -> Self {
        Self { http: reqwest::Client::new(), url: url.to_owned() }
    }

    async fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value> {
        let mut url = url::Url::parse(&format!("{}/api/2.0/mlflow/{path}", self.url))?;
        url.query_pairs_mut().extend_pairs(query);
        let answer = self.http.get(url).send().await?.error_for_status()?;
        Ok(answer.json().await?)
    }

    /// Values of a metric in the order of their steps.
    pub(crate) async fn history(&self, run_id: &str, metric: &str) -> Result<Vec<(i64, f64)>> {
        let answer = self.get("metrics/get-history", &[("run_id", run_id), ("metric_key", metric), ("max_results", "10000")]).await?;
        let number = |value: &Value| value.as_f64().or_else(|| value.as_str()?.parse().ok());
        let mut values: Vec<(i64, f64)> = answer["metrics"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|m| Some((m["step"].as_i64().or_else(|| m["step"].as_str()?.parse().ok()).unwrap_or(0), number(&m["value"])?)))
            .collect();
        values.sort_by_key(|(step, _)| *step);
        Ok(values)
    }

    /// The run itself, with its tags and newest metrics.
    pub(crate) async fn run(&self, run_id: &str) -> Result<Value> {
        self.get("runs/get", &[("run_id", run_id)]).await
    }

    /// Versions of a registered model.
    pub(crate) async fn versions(&self, name: &str) -> Result<Vec<Value>> {
        let filter = format!("name='{name}'");
        let answer = self.get("model-versions/search", &[("filter", &filter)]).await?;
        Ok(answer["model_versions"].as_array().cloned().unwrap_or_default())
    }

    /// Paths of the artifacts of a run, one level.
    pub(crate) async fn artifacts(&self, run_id: &str) -> Result<Vec<String>> {
        let answer = self.get("artifacts/list", &[("run_id", run_id)]).await?;
        Ok(answer["files"].as_array().into_iter().flatten().filter_map(|f| f["path"].as_str().map(ToOwned::to_owned)).collect())
    }
}
