"""Many texts at once: the prompts of a batch, how many run, and their results.

``batch`` runs them, and ``decoding`` makes each of them.
"""
