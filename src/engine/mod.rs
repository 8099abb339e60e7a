//! What to train and how: a run, its model and its runtime become resolved choices and the engine's configuration. Pure.

pub mod cost;
pub mod duration;
pub mod endpoint;
pub mod fit;
pub mod llm_foundry;
mod place;
pub mod resolve;
mod secrets;
mod tuning;

pub use resolve::{Refusal, Request, closest, resolve};
