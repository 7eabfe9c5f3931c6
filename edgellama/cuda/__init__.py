"""Keys, values and attention on a graphics card of NVIDIA's, without any package of theirs.

``driver`` calls NVIDIA's library, ``context`` and the files beside it hold what a process has on a
card. ``ptx_cache`` has the code of ``kernels``, whose arguments are in ``signatures``. Which
sequences lie on a card is left to ``edgellama.engine.card``.
"""
