"""From token ids to logits: weights, the program of a step, keys and values."""
