"""Whose turn it is, threads that make texts, and how these come to clients as they grow.

``answers`` makes what a ``wish`` asks for and says so in ``events``, which ``streaming`` sends.
``turns`` is for work that is no text, and ``state`` is what all requests share.
"""
