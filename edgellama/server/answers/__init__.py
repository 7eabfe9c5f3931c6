"""Whose turn it is, threads that make texts, and how these come to clients as they grow.

``answers`` has the texts of one request, ``streaming`` sends them, ``turns`` is for work that is no
text, and ``state`` is what all requests share.
"""
