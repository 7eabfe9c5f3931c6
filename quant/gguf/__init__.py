"""Reading a GGUF file: header, metadata, tensors, parts.

``file`` is a model's file as the engine sees it, ``part`` one file on disk. Every length is checked
by ``cursor``; what metadata means is left to ``model_config`` and ``vocabulary``.
"""
