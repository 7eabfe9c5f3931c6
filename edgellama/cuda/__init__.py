"""Keys, values and attention on an NVIDIA graphics card, with nothing but the driver's own library.

``driver`` calls that library. ``context`` and the modules around it own what a process has on a
card. ``ptx_cache`` provides the code of ``kernels``, and ``signatures`` describes the arguments of
each kernel. Which sequences lie on the card is decided by ``edgellama.engine.card``.
"""
