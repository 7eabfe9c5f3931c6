"""Calls that read texts without writing one: vectors, ranks, scores, verdicts.

Each has a file: ``embedding``, ``reranking``, ``scoring``, ``moderation``. ``concurrency`` runs
many of them at once.
"""
