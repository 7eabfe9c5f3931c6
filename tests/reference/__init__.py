"""References for the tests: tiny models, an obvious NumPy Llama, and golden data makers."""
