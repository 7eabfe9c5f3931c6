"""Sources of a conversion: what lies in a folder or file, as parameters and tensors by rows.

``opening`` finds out what a path is; a ``*_checkpoint`` file is a kind of source, a ``*_reader``
file a kind of container. ``model`` and ``dequantize`` know what tensors mean.
"""
