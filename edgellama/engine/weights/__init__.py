"""A model's tensors and those of its adapters, as they lie in mapped files, and other memory.

``weights`` finds a model's tensors, and ``adapter_factors`` those of an adapter. ``adapter_set``
says which adapters a text is computed with. ``memory`` is for all numbers that are in no file.
"""
