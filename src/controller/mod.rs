//! The controller: `observe` reads, `decide` is pure, `apply` writes, one step per reconcile.

pub mod build;
pub mod settings;
pub mod snapshot;
