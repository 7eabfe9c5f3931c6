"""What a model tells of texts without writing one: vectors, ranks, scores, verdicts.

A file each: ``embedding``, ``reranking``, ``scoring``, ``moderation``. Running many of them at once
is left to ``concurrency``.
"""
