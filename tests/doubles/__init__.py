"""Test doubles of what tests cannot have: a graphics card, its driver, a hub, a package index."""
