"""Products of a matrix with one token (``gemv``), a few (``skinny_gemm``) or many (``gemm``).

``gemv`` also takes a few tokens that must each have the bits of one alone.

``embed`` looks rows up, and ``bandwidth`` only reads memory, to measure it. How the blocks of a
format are read is left to ``formats``; which kernel a step uses, to the engine.
"""
