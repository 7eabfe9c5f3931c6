"""Products of a matrix with one token (``gemv``), a few (``skinny_gemm``) or many (``gemm``).

``embed`` looks rows up, and ``bandwidth`` only reads memory, to measure it. How the blocks of a
format are read is left to ``formats``; which kernel a step uses, to the engine.
"""
