"""Stages: neighbouring layers with keys and values of their own, and what is said to them."""
