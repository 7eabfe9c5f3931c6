"""The source of each kernel of the card: its Python function and its arguments, for compilers.

``ptx_target`` and ``cpu_form`` both start from it. The step from a Python function to LLVM code is
left to ``kernels_cpu.compiling.front_end``.
"""

from __future__ import annotations

from types import FunctionType

from edgellama.cuda import decode_layout, layouts
from edgellama.cuda.signatures import CARD_SIGNATURES
from edgellama.kernels_cpu.compiling.front_end import Source
from edgellama.kernels_cpu.signatures import Kernel
from edgellama.kernels_cpu.simd.device import device

for _module in (layouts, decode_layout):
    for _formula in vars(_module).values():
        if isinstance(_formula, FunctionType) and _formula.__module__ == _module.__name__:
            device(_formula)


def source_of(kernel: Kernel) -> Source:
    """A kernel's function, whose last parameter is ``warp``."""
    signature = CARD_SIGNATURES[kernel]
    return Source(
        f"edgellama.cuda.kernels.{signature.module}", signature.factory, kernel.options,
        (*signature.parameters, "warp"), signature.float_parameters, signature.is_exact,
    )  # fmt: skip
