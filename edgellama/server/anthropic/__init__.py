"""Anthropic's protocol: messages, the count of their tokens, and the list of models.

``routes`` has the endpoints. ``messages`` and ``blocks`` read requests and write answers.
"""
