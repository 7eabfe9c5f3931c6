"""Messages as prompts in a model's chat format, and conversations over one session."""
