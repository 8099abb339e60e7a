//! finetune-operator: `observe -> decide -> apply` for finetuning runs.
//!
//! ```text
//! watches -> observe (reads) -> decide (pure) -> apply (writes) -> Job of a stage -> verdict -> observe ...
//! ```

pub mod api;
pub mod connections;
pub mod controller;
pub mod data;
pub mod engine;
pub mod lease;
pub mod metrics;
pub mod preflight;
pub mod report;
pub mod server;
pub mod telemetry;
