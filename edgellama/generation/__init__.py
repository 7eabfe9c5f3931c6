"""From logits to text: the loop, streams, sessions, conversations."""
