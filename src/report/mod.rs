//! The endpoint that trainers post to: a sender is proved, its post is cut to bounds and kept in memory for `observe`.
//!
//! Nothing here writes to the cluster, and no verdict rests on anything that arrives here.

pub mod message;
pub mod store;
pub mod wire;
