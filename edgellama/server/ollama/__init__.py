"""Ollama's protocol: texts, the list of models, downloads, and models made from others.

``routes`` and ``manage`` have the endpoints. ``fields.ollama_fields`` reads requests, and ``texts``
writes answers.
"""
