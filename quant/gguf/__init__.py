"""Reading a GGUF file: header, metadata, tensors, parts."""
