"""Endpoints that return no text: embeddings, ranks of documents, moderations.

``generation.judging`` computes the results.
"""
