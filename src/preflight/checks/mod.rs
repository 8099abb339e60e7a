//! The checks: each asks one service or place one question. They run side by side, and all failures are reported.

mod claim;
mod cluster;
mod custom_weights;
mod hub;
mod mlflow;
mod model;
mod registry;
mod save_folder;
mod secrets;
mod service;
mod source;
mod table;
mod wandb;

use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use futures::{FutureExt, StreamExt};
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStoreExt};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

pub use hub::Hub;
pub(super) use hub::split;
pub use mlflow::{FIELD as MLFLOW_FIELD, make_run};
pub(super) use model::no_tokenizer;
pub use model::shard_names;

use super::dial::Dialer;
use super::failure::Failure;
use super::mounted::Mounted;
use super::place::Place;
use super::plan::Plan;
use super::store::{Opened, Stores};
use super::verdict::{Check, CheckName};
use crate::api::secret_ref::SecretKind;

/// What every check needs.
#[derive(Debug, Clone)]
pub struct Context {
    /// What the operator asks.
    pub plan: Plan,
    /// The HTTP client.
    pub dialer: Dialer,
    /// The Secrets in the pod.
    pub secrets: Mounted,
    /// Opens places.
    pub stores: Stores,
    /// Environment of the pod.
    pub environment: BTreeMap<String, String>,
    /// What must not be left half done: the program waits for it, a while, before it ends.
    pub unfinished: TaskTracker,
}

impl Context {
    /// Everything that checks need, from a plan and the pod's environment.
    #[must_use]
    pub fn new(plan: Plan, dialer: Dialer, environment: BTreeMap<String, String>) -> Self {
        let secrets = Mounted::new(&plan.secrets);
        let stores = Stores::new(dialer.clone(), secrets.clone(), plan.s3.clone(), environment.clone());
        Self { plan, dialer, secrets, stores, environment, unfinished: TaskTracker::new() }
    }

    /// Brings a probe and the removal of what it made to their end, even when the check that waits for them is given up.
    async fn finish(&self, probe: impl Future<Output = Outcome> + Send + 'static) -> Outcome {
        let crashed = |_| Err(Failure::infrastructure("Crashed", "the check crashed".to_owned()));
        self.unfinished.spawn(probe).await.unwrap_or_else(crashed)
    }

    /// Whether a place's Secret is usable, or none is named: else the `Secrets` check has said it all.
    fn can_open(&self, text: &str) -> bool {
        let kind = Place::parse(text).ok().as_ref().and_then(Stores::secret_kind);
        kind.is_none_or(|kind| !self.secrets.is_broken(kind))
    }

    /// Where weights lie: the place that the plan names, else the hub under the model's name.
    #[must_use]
    pub fn weights(&self) -> String {
        let model = &self.plan.model;
        model.weights.clone().unwrap_or_else(|| format!("hf://{}", model.name))
    }
}

type Outcome = Result<(), Failure>;
type Question<'a> = Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>;

/// One check that is to be asked.
struct Ask<'a> {
    name: CheckName,
    field: &'static str,
    question: Question<'a>,
}

impl<'a> Ask<'a> {
    fn new(name: CheckName, field: &'static str, question: impl Future<Output = Outcome> + Send + 'a) -> Self {
        Self { name, field, question: Box::pin(question) }
    }
}

/// Runs every check that the plan asks for, until `deadline`; in the order of their names.
pub async fn prove(context: &Context, deadline: Instant) -> Vec<Check> {
    let presence = Ask::new(CheckName::Secrets, "spec.secrets", async { secrets::check(&context.secrets) });
    let asked = std::iter::once(presence).chain(if context.plan.check_credentials { credentials(context) } else { Vec::new() });
    let side_by_side = futures::future::join_all(asked.map(|ask| answered(ask, deadline)));
    let (mut checks, folder) = futures::join!(side_by_side, outputs(context, deadline));
    checks.extend(folder);
    checks.sort_by_key(|check| check.name);
    checks
}

/// All but the save folder's. What needs a Secret that cannot be used is left out: the `Secrets` check says it.
fn credentials(context: &Context) -> Vec<Ask<'_>> {
    let plan = &context.plan;
    let mut asked = Vec::new();
    if context.can_open(&context.weights()) {
        asked.push(Ask::new(CheckName::Model, "spec.model", model::check(context)));
    }
    if context.can_open(&plan.train) {
        asked.push(Ask::new(CheckName::TrainData, "spec.trainDataPath", source::check(context, &plan.train)));
    }
    if let Some(eval) = plan.eval.as_deref().filter(|eval| context.can_open(eval)) {
        asked.push(Ask::new(CheckName::EvalData, "spec.evalDataPath", source::check(context, eval)));
    }
    let is_table = |text: &str| matches!(Place::parse(text), Ok(Place::Table(_)));
    let reads_tables = is_table(&plan.train) || plan.eval.as_deref().is_some_and(is_table);
    if (reads_tables || plan.cluster.is_some()) && !context.secrets.is_broken(SecretKind::Databricks) {
        asked.push(Ask::new(CheckName::Cluster, "spec.dataPrepClusterId", cluster::check(context, plan.cluster.as_deref())));
    }
    if let Some(weights) = plan.custom_weights.as_deref().filter(|weights| context.can_open(weights)) {
        asked.push(Ask::new(CheckName::CustomWeights, "spec.customWeightsPath", custom_weights::check(context, weights)));
    }
    if let Some(target) = plan.mlflow.as_ref().filter(|target| mlflow::is_usable(context, target)) {
        asked.push(Ask::new(CheckName::Mlflow, MLFLOW_FIELD, mlflow::check(context, target)));
        if let Some(name) = &target.registry {
            asked.push(Ask::new(CheckName::Registry, "spec.registerTo", registry::check(context, target, name)));
        }
    }
    if let Some(target) = plan.wandb.as_ref().filter(|_| !context.secrets.is_broken(SecretKind::Wandb)) {
        asked.push(Ask::new(CheckName::Wandb, "spec.experimentTracker.wandb", wandb::check(context, target)));
    }
    asked
}

/// A folder that cannot be written cannot be claimed either: one failure says it.
async fn outputs(context: &Context, deadline: Instant) -> Vec<Check> {
    let field = "spec.saveFolder";
    let mut checks = Vec::new();
    if !context.can_open(&context.plan.save_folder) {
        return checks;
    }
    if context.plan.check_credentials {
        checks.push(answered(Ask::new(CheckName::SaveFolder, field, save_folder::check(context)), deadline).await);
    }
    if checks.iter().all(|check| check.passed) {
        checks.push(answered(Ask::new(CheckName::Claim, field, claim::check(context)), deadline).await);
    }
    checks
}

async fn answered(ask: Ask<'_>, deadline: Instant) -> Check {
    let Ask { name, field, question } = ask;
    // A library that panics at a user's text fails one check, not all.
    let crashed = |_| Err(Failure::infrastructure("Crashed", "the check crashed".to_owned()));
    let question = async { AssertUnwindSafe(question).catch_unwind().await.unwrap_or_else(crashed) };
    let result = tokio::time::timeout_at(deadline, question).await.unwrap_or_else(|_| {
        let message = "the check did not end within its time: a service does not answer, or the network drops what is sent to it".to_owned();
        Err(Failure::infrastructure("DeadlineExceeded", message))
    });
    result.map_or_else(|failure| failure.into_check(name, field), |()| Check::pass(name))
}

/// The object's size and version. A refusal is asked again with GET, as only that has a body that says why.
async fn head(opened: &Opened) -> Result<ObjectMeta, Failure> {
    let error = match opened.store.head(&opened.path).await {
        Ok(meta) => return Ok(meta),
        Err(error) => error,
    };
    if matches!(error, object_store::Error::NotFound { .. }) {
        return Err(missing(opened, &error).await);
    }
    let first_byte = GetOptions { range: Some(GetRange::Bounded(0..1)), ..GetOptions::default() };
    match opened.store.get_opts(&opened.path, first_byte).await {
        Ok(answer) => Ok(answer.meta),
        Err(said) => Err(opened.asked.failure("read", &said)),
    }
}

/// HEAD does not say whether the object or its bucket is missing; a listing does.
async fn missing(opened: &Opened, error: &object_store::Error) -> Failure {
    match opened.store.list(Some(&opened.path)).next().await {
        Some(Err(said)) => {
            let failure = opened.asked.failure("read", &said);
            if failure.reason == "BucketMissing" { failure } else { opened.asked.failure("read", error) }
        }
        _ => opened.asked.failure("read", error),
    }
}

/// The object's bytes, if it has at most `limit`.
async fn read(opened: &Opened, limit: usize) -> Result<Bytes, Failure> {
    let explain = |error: object_store::Error| opened.asked.failure("read", &error);
    let mut stream = opened.store.get(&opened.path).await.map_err(explain)?.into_stream();
    let mut bytes = BytesMut::new();
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk.map_err(explain)?);
        if bytes.len() > limit {
            return Err(Failure::user("ObjectTooLarge", format!("{} has more than {limit} bytes", opened.asked.place)));
        }
    }
    Ok(bytes.freeze())
}

#[cfg(test)]
mod tests;
