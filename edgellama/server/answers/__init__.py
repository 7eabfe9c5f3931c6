"""Whose turn it is, threads that make texts, and how these come to clients as they grow."""
