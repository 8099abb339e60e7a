//! Hands the data to the data path: opens the sources, the tokenizer and the output, and reads the result as checks.

use std::error::Error;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::checks::{Context, Hub, no_tokenizer, split};
use super::failure::{Asked, Failure};
use super::place::Place;
use super::plan::Plan;
use super::verdict::{Check, CheckName, DataReport, SourceReport};
use crate::api::TaskType;
use crate::data::mds::SHARD_BYTES;
use crate::data::model::Model;
use crate::data::ordered::threads;
use crate::data::packing;
use crate::data::prepare::{self, Preparation, PrepareError};
use crate::data::rows::RowsError;
use crate::data::rule::BadRow;
use crate::data::sink::SinkError;
use crate::data::table::Unreadable;
use crate::data::text::TextError;
use crate::data::tokenizer::TokenizerFiles;

/// Bad rows that a message shows; the report has more of them.
const SHOWN_ROWS: usize = 3;

/// What the data path found.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    pub(super) checks: Vec<Check>,
    pub(super) report: Option<DataReport>,
    pub(super) bad_rows: Value,
}

/// Reads, judges and converts the data until `deadline`.
pub(super) async fn prepare(context: &Context, deadline: Instant) -> Prepared {
    // A timer that has run out fires a moment later, in which little data would be read.
    let in_time = async { if Instant::now() < deadline { all(context).await } else { std::future::pending().await } };
    match tokio::time::timeout_at(deadline, in_time).await {
        Ok(Ok(prepared)) => prepared,
        Ok(Err(check)) => Prepared { checks: vec![check], ..Prepared::default() },
        Err(_) => {
            let message = "the data were not read and converted within their time; split them, or ask the administrator for a longer data deadline";
            let failure = Failure::infrastructure("DeadlineExceeded", message.to_owned());
            Prepared { checks: vec![failure.into_check(CheckName::TrainRows, "spec.trainDataPath")], ..Prepared::default() }
        }
    }
}

async fn all(context: &Context) -> Result<Prepared, Check> {
    let plan = &context.plan;
    let model = model(context).await.map_err(|failure| failure.into_check(CheckName::Model, "spec.model"))?;
    let folder = context.stores.open(&plan.save_folder).map_err(|failure| failure.into_check(CheckName::SaveFolder, "spec.saveFolder"))?;
    let preparation = Preparation {
        task: plan.task_type,
        context: plan.context_length,
        model: Arc::new(model),
        save_folder: folder.location(),
        threads: threads(),
        shard_bytes: SHARD_BYTES,
    };
    let mut checks = Vec::new();
    let mut reports = [None, None];
    let mut bad_rows = json!({});
    let mut cached = true;
    let mut ratio = 1.0;
    let sources = [
        (CheckName::TrainRows, "spec.trainDataPath", "train", Some(&plan.train)),
        (CheckName::EvalRows, "spec.evalDataPath", "eval", plan.eval.as_ref()),
    ];
    for (index, (name, field, key, text)) in sources.into_iter().enumerate() {
        let Some(text) = text else { continue };
        let found = match source(context, &preparation, text, &folder.asked).await {
            Ok(found) => found,
            Err(failure) => {
                checks.push(failure.into_check(name, field));
                continue;
            }
        };
        let is_train = name == CheckName::TrainRows;
        let verdict = verdict(text, &found).and_then(|()| if is_train { fills_a_step(plan, text, &found) } else { Ok(()) });
        checks.push(verdict.map_or_else(|failure| failure.into_check(name, field), |()| Check::pass(name)));
        if is_train && plan.packing && plan.task_type != TaskType::ContinuedPretrain {
            ratio = packing::ratio(&found.lengths, plan.context_length, plan.global_batch_size, plan.world_size);
        }
        cached &= found.cached;
        bad_rows[key] = json!(found.first_bad);
        reports[index] = Some(report(text, found));
    }
    let [train, mut eval] = reports;
    if let (Some(train), Some(eval)) = (&train, &mut eval)
        && let (Some(train), Some(own)) = (&train.mds, &eval.mds)
    {
        let shared = preparation.also_in(own, train).await;
        eval.also_in_train =
            shared.map_err(|error| explain(&error, &folder.asked, &folder.asked).into_check(CheckName::EvalRows, "spec.saveFolder"))?;
    }
    Ok(Prepared { checks, report: Some(DataReport { train, eval, packing_ratio: ratio, cached }), bad_rows })
}

async fn source(context: &Context, preparation: &Preparation, text: &str, output: &Asked) -> Result<prepare::Prepared, Failure> {
    let (source, asked) = if let Ok(Place::Hub(name)) = Place::parse(text) {
        split(context, &name).await?
    } else {
        let opened = context.stores.open(text)?;
        (opened.location().into(), opened.asked)
    };
    preparation.prepare(&source).await.map_err(|error| explain(&error, &asked, output))
}

/// What the rows are good for.
fn verdict(text: &str, found: &prepare::Prepared) -> Result<(), Failure> {
    if found.bad > 0 {
        let shown: Vec<_> = found.first_bad.iter().take(SHOWN_ROWS).map(sentence).collect();
        let message = format!("{} of {} rows of {text} break a rule; mend or remove them: {}", found.bad, found.rows, shown.join("; "));
        return Err(Failure::data("BadRows", message));
    }
    if found.rows == 0 {
        return Err(Failure::data("EmptyData", format!("{text} has no rows")));
    }
    if found.samples == 0 {
        let message = format!(
            "{text} has nothing to train on: none of its {} rows (or files) is left after {} that have no room for a response or are too short; \
             check the data and spec.contextLength",
            found.rows, found.dropped
        );
        return Err(Failure::data("NothingToTrainOn", message));
    }
    Ok(())
}

/// Training leaves out a last step that is not full, so less data than one step would train on nothing.
fn fills_a_step(plan: &Plan, text: &str, found: &prepare::Prepared) -> Result<(), Failure> {
    let Plan { global_batch_size, context_length, .. } = plan;
    if found.samples >= u64::from(*global_batch_size) {
        return Ok(());
    }
    let samples = if plan.task_type == TaskType::ContinuedPretrain {
        format!("{} samples of {context_length} tokens", found.samples)
    } else {
        format!("{} rows to train on", found.samples)
    };
    let message =
        format!("{text} has {samples}, but one training step takes {global_batch_size}; add data, or ask the administrator for a smaller batch");
    Err(Failure::data("DatasetTooSmall", message))
}

fn sentence(row: &BadRow) -> String {
    let file = row.file.rsplit('/').next().unwrap_or_default();
    let unit = if row.file.ends_with(".parquet") { "row" } else { "line" };
    format!("{file} {unit} {}: {}: {}", row.line, row.rule.as_str(), row.message)
}

fn report(text: &str, found: prepare::Prepared) -> SourceReport {
    SourceReport {
        source: text.to_owned(),
        digest: found.digest,
        rows: found.rows,
        tokens: found.tokens,
        too_long: found.too_long,
        dropped: found.dropped,
        bad: found.bad,
        duplicates: found.duplicates,
        also_in_train: None,
        advice: found.advice,
        samples: found.samples,
        mds: found.mds,
    }
}

async fn model(context: &Context) -> Result<Model, Failure> {
    let weights = context.weights();
    // Of a tokenizer that was made only the tokenizer's own files are there.
    let made = context.plan.model.tokenizer.as_deref().map(|place| context.stores.open(place)).transpose()?;
    let files = if let Some(made) = made {
        let location = made.location();
        let get = async |name, limit| location.read(name, limit).await.map_err(|error| made.below(name).asked.failure("read", &error));
        TokenizerFiles::gather(get).await
    } else if let Ok(Place::Hub(repository)) = Place::parse(&weights) {
        let hub = Hub::new(context);
        TokenizerFiles::gather(async |name, limit| hub.file(&repository, name, limit).await).await
    } else {
        let opened = context.stores.open(&weights)?;
        let location = opened.location();
        let get = async |name, limit| location.read(name, limit).await.map_err(|error| opened.below(name).asked.failure("read", &error));
        TokenizerFiles::gather(get).await
    };
    let files = files?.ok_or_else(|| no_tokenizer(&weights))?;
    Model::new(&files, context.plan.model.chat_template.as_deref()).map_err(|error| Failure::user("TokenizerUnusable", format!("{weights}: {error}")))
}

fn explain(error: &PrepareError, input: &Asked, output: &Asked) -> Failure {
    let sink = match error {
        PrepareError::Sink(sink) | PrepareError::Rows(RowsError::Sink(sink)) | PrepareError::Text(TextError::Sink(sink)) => Some(sink),
        _ => None,
    };
    if let Some(sink) = sink {
        return match (store_error(sink), sink) {
            (Some(error), _) => output.failure("write to", error),
            (None, SinkError::Died) => Failure::infrastructure("Crashed", "the conversion of the data crashed".to_owned()),
            (None, _) => Failure::infrastructure("StoreFailed", format!("cannot write the converted data to {}", output.place)),
        };
    }
    if let Some(error) = store_error(error) {
        return input.failure("read", error);
    }
    let place = &input.place;
    match error {
        PrepareError::Source(error) => Failure::data("NoTextFiles", error.to_string()),
        PrepareError::Rows(RowsError::Read { file, source }) if unreadable(source).is_some() => {
            let problem = unreadable(source).map(ToString::to_string).unwrap_or_default();
            Failure::data("Unreadable", format!("{file}: {problem}; write the file again"))
        }
        PrepareError::Rows(RowsError::Read { .. }) | PrepareError::Text(TextError::Read { .. }) => {
            Failure::data("Unreadable", format!("{place} cannot be read to its end: it is cut off or compressed wrongly; upload it again"))
        }
        PrepareError::Text(TextError::NotUtf8 { .. }) => Failure::data("InvalidUtf8", error.to_string()),
        PrepareError::Rows(RowsError::Tokenizer { .. }) | PrepareError::Text(TextError::Tokenizer { .. }) => {
            Failure::user("TokenizerUnusable", error.to_string())
        }
        _ => Failure::infrastructure("Crashed", "the conversion of the data crashed".to_owned()),
    }
}

fn unreadable(error: &std::io::Error) -> Option<&Unreadable> {
    error.get_ref()?.downcast_ref()
}

/// The store's error among the causes; an `io::Error` hides it one level deeper.
fn store_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a object_store::Error> {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(found) = cause.downcast_ref::<object_store::Error>() {
            return Some(found);
        }
        let inner = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(found) = inner.and_then(|inner| inner.downcast_ref::<object_store::Error>()) {
            return Some(found);
        }
        next = cause.source();
    }
    None
}
