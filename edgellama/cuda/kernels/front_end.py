"""From a kernel's Python function to LLVM code, by Numba, for PTX and the CPU form alike.

What a process compiles for is set once, by ``ptx_target.use_card`` or ``jit.use_tier``.
"""

from __future__ import annotations

import importlib
import inspect
from types import FunctionType
from typing import Any

import numba
from numba.core import compiler, registry
from numba.core.compiler_lock import global_compiler_lock

from edgellama.cuda import decode_layout, layouts
from edgellama.cuda.signatures import CARD_SIGNATURES
from edgellama.kernels_cpu.signatures import Kernel
from edgellama.kernels_cpu.simd.device import FAST_MATH, device
from edgellama.quant.errors import KernelError

for _module in (layouts, decode_layout):
    for _formula in vars(_module).values():
        if isinstance(_formula, FunctionType) and _formula.__module__ == _module.__name__:
            device(_formula)


def typed_library(kernel: Kernel) -> tuple[Any, str]:
    """Numba's library of a kernel, and the symbol of its function."""
    signature = CARD_SIGNATURES[kernel]
    module = importlib.import_module(f"edgellama.cuda.kernels.{signature.module}")
    function = getattr(module, signature.factory)(*kernel.options)
    expected = (*signature.parameters, "warp")
    if tuple(inspect.signature(function).parameters) != expected:
        raise KernelError(f"{signature.factory} in {signature.module} does not take {expected}")
    flags = compiler.Flags()
    flags.nrt = False
    flags.no_compile = True
    flags.no_cpython_wrapper = True
    flags.no_cfunc_wrapper = True
    flags.error_model = "numpy"
    if not signature.is_exact:
        flags.fastmath = set(FAST_MATH)
    target = registry.cpu_target
    result = compiler.compile_extra(
        target.typing_context,
        target.target_context,
        function,
        tuple(argument_types(kernel)),
        numba.void,
        flags,
        {},
    )
    with global_compiler_lock:
        result.library.finalize()
    return result.library, result.fndesc.llvm_func_name


def argument_types(kernel: Kernel) -> list[Any]:
    """Numba's types of a kernel's parameters and of ``warp``."""
    signature = CARD_SIGNATURES[kernel]
    return [
        numba.float32 if parameter in signature.float_parameters else numba.int64
        for parameter in (*signature.parameters, "warp")
    ]
