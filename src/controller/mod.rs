//! The controller: `observe` reads, `decide` is pure, `apply` writes, one step per reconcile.

pub mod apply;
pub mod build;
pub mod classify;
pub mod decide;
pub mod facts;
mod known;
pub mod observe;
pub mod observed;
mod reconcile;
pub mod settings;
pub mod snapshot;

pub use known::KnownRuns;
pub use reconcile::{Context, Error, RunStore, Watched, run};
