"""Weights that another program has quantized: what they are, by their tensors, and their values."""
