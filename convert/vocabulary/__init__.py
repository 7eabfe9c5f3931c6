"""A source's tokenizer as GGUF holds it: tokens, merges, roles and the chat template."""
