"""The kernel that chooses a token from logits, and the door to it."""
