"""Converter from Llama checkpoints to GGUF files."""
