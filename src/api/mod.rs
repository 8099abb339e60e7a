//! The three kinds of group `finetune.dev`: their types and their own rules; no client, no clock.

// KubeSchema expands each struct into a private module, where the lint cannot see that it is exported.
#![allow(unreachable_pub)]
// Doc comments of the types are the descriptions that `kubectl explain` prints.
#![allow(clippy::doc_markdown)]
// Two printer columns of one type are no duplicates.
#![allow(clippy::duplicated_attributes)]

pub mod condition;
pub mod crd;
pub mod defaults;
pub mod model;
pub mod names;
pub mod run;
pub mod runtime;
pub mod scheduling;
pub mod secret_ref;
pub mod status;
pub mod training_duration;

pub use model::{FinetuneModel, FinetuneModelSpec};
pub use run::{FinetuneRun, FinetuneRunSpec, TaskType};
pub use runtime::{FinetuneRuntime, FinetuneRuntimeSpec};
pub use status::FinetuneRunStatus;

/// API group of all three kinds.
pub const GROUP: &str = "finetune.dev";

/// Field manager of every write the operator makes.
pub const MANAGER: &str = "finetune-operator";

/// The `ServiceAccount` of a run that names none.
pub const DEFAULT_SERVICE_ACCOUNT: &str = "finetune-runner";

/// A `ServiceAccount` other than the default must carry this label with the value `true`.
pub const SERVICE_ACCOUNT_OPT_IN: &str = "finetune.dev/allow-runs";
