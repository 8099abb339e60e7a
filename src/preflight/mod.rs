//! The preflight stage: proves that credentials, places and data are good before any accelerator is taken.

pub mod plan;
pub mod verdict;
