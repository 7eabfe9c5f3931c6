"""Positions, storing keys and values, and attention over them."""
