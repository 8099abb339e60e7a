//! The data path: read rows or text, judge them by the rules, count tokens, write MDS shards.
//!
//! ```text
//! location -> bytes -> blocks of whole lines -> (all cores: rows -> rules -> turns -> tokens -> samples) -> shards -> index
//! ```

pub mod adapter;
pub mod blocks;
pub mod fingerprint;
pub mod fitting;
pub mod json;
pub mod mds;
pub mod model;
pub mod ordered;
pub mod packing;
pub mod prepare;
pub mod progress;
pub mod row;
pub mod rows;
pub mod rule;
pub mod sink;
pub mod source;
pub mod table;
pub mod template;
pub mod text;
pub mod tokenizer;
pub mod turns;
mod words;
