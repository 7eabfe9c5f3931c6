"""Sources of a conversion: a folder or a file, as parameters and as tensors by rows.

``opening`` finds out what a path is. A ``*_checkpoint`` file is a kind of source, a ``*_reader``
file a kind of container. ``model`` and ``dequantize`` know what tensors mean.
"""
