//! finetune-operator: `observe -> decide -> apply` for finetuning runs.
//!
//! ```text
//! watches -> observe (reads) -> decide (pure) -> apply (writes) -> Job of a stage -> verdict -> observe ...
//! ```

pub mod api;
pub mod controller;
pub mod engine;
pub mod preflight;
pub mod report;
