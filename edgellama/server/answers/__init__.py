"""The texts of an answer: whose turn it is, which threads make them, how they come to the client.

``answers`` makes what a ``wish`` asks for and reports in ``events``, which ``streaming`` sends.
``turns`` runs work that is no text. ``state`` is what all requests share.
"""
