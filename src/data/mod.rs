//! The data path: read rows or text, judge them by the rules, count tokens, write MDS shards.
//!
//! ```text
//! place -> bytes -> blocks of whole lines -> (all cores: rows -> rules -> turns -> tokens -> samples) -> shards -> index
//! ```

pub mod blocks;
pub mod json;
pub mod mds;
pub mod packing;
pub mod row;
pub mod rule;
pub mod template;
pub mod tokenizer;
pub mod turns;
