"""A model over several machines: stages of neighbouring layers, and who drives them."""
