"""Sequences whose keys and values lie on a graphics card, where their attention is computed.

``placement`` decides which ones; ``step`` and ``attention`` run their part of a step. The driver
and the kernels are in ``edgellama.cuda``.
"""
