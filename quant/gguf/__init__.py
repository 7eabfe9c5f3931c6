"""Reads a GGUF file: header, metadata, tensors, parts.

``file`` is a model's file as the engine sees it, ``part`` is one file on disk. ``cursor`` checks
every length. ``model_config`` and ``vocabulary`` know what metadata means.
"""
