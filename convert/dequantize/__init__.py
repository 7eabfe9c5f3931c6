"""Weights that another program has quantized: recognised by their tensors, and expanded to floats.

``recognition`` finds the method, and makes a tensor of one of the ``*_tensor`` files. Methods that
are known but not converted are in ``foreign_methods``.
"""
