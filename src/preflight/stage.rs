//! Hands the data to the data path: opens the sources, the tokenizer and the output, and reads the result as checks.

use serde_json::Value;
use tokio::time::Instant;

use super::checks::Context;
use super::verdict::{Check, DataReport};

/// What the data path found.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    pub(super) checks: Vec<Check>,
    pub(super) report: Option<DataReport>,
    pub(super) bad_rows: Value,
}

pub(super) async fn prepare(_context: &Context, _deadline: Instant) -> Prepared {
    Prepared::default()
}
