//! What the data path decides and writes, compared with the training engine's own code on the same input: LLM Foundry's
//! validator and converter, the chat templates of `transformers`, the reader of `mosaicml-streaming`.
//!
//! The engine is one Python process for all tests (`engine.py`), in the environment that `FINETUNE_TRAINER` names.

mod corpus;
mod engine;
mod mds;
mod rows;
mod templates;
