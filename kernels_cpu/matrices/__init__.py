"""Products of quantized matrices with one token, a few, or many."""
