//! The preflight stage: proves that credentials, places and data are good before any accelerator is taken.

pub mod address;
pub mod checks;
mod connector;
pub mod dial;
pub mod failure;
#[cfg(test)]
mod fake;
pub mod mounted;
mod oci;
pub mod place;
pub mod plan;
mod remote;
pub mod run;
mod stage;
pub mod store;
pub mod verdict;
mod workspace;
