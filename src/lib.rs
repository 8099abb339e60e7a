//! finetune-operator.
