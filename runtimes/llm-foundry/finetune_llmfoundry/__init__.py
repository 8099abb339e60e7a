"""The LLM Foundry runtime of finetune-operator: see docs/contract.md for what it promises."""
