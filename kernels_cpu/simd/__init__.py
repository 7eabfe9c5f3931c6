"""LLVM vectors inside Numba: the types and the operations in which kernels are written.

``vectors`` defines the types, and every other module adds operations of one kind. Only this room
builds LLVM code; what kernels compute with it is left to the other rooms.
"""
