"""Weights that another program has quantized: what they are, by their tensors, and their values.

``recognition`` tells which way it was and gives a tensor for each, of the ``*_tensor`` files. A way
that is known and not converted is in ``foreign_methods``.
"""
