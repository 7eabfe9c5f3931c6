"""LoRA adapters of PEFT as GGUF adapters."""
