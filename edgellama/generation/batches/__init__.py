"""Many texts at once: what a prompt of a batch may be, how many run, what comes of them.

``batch`` runs them; how one of them is made is left to ``decoding``.
"""
