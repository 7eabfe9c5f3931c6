"""From Python functions to machine code: compiling kernels, keeping the code, and loading it.

``jit`` compiles a kernel with ``front_end``, in the worker processes of ``compile_pool``.
``code_cache`` decides what must be compiled, and ``code_loader`` places the code in memory. What
the kernels compute is left to the other rooms.
"""
