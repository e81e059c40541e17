"""Fine-tuning of a checkpoint on examples: LoRA adapters, or all weights of a small model. Needs torch and peft."""
