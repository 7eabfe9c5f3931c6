"""LLVM vectors inside Numba: the types and the operations that kernels are written in."""
