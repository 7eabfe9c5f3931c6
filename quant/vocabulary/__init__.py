"""The vocabulary that a model file holds."""
