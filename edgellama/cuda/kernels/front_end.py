"""From a kernel's Python function to LLVM code, by Numba, for PTX and the CPU form alike.

What a process compiles for is set once, by ``ptx_target.use_card`` or ``jit.use_tier``.
"""

from __future__ import annotations

import importlib
import inspect
from types import FunctionType
from typing import Any

import numba
from llvmlite import binding, ir
from numba.core import compiler, registry
from numba.core.compiler_lock import global_compiler_lock

from edgellama.cuda import decode_layout, layouts
from edgellama.cuda.signatures import CARD_SIGNATURES
from edgellama.kernels_cpu.signatures import Kernel
from edgellama.kernels_cpu.simd.device import FAST_MATH, device
from edgellama.quant.errors import KernelError

I32, I64, F32 = ir.IntType(32), ir.IntType(64), ir.FloatType()

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


def parameter_types(kernel: Kernel) -> list[Any]:
    """LLVM's types of a kernel's parameters, without ``warp``."""
    signature = CARD_SIGNATURES[kernel]
    return [F32 if p in signature.float_parameters else I64 for p in signature.parameters]


def call_function(builder: Any, kernel: Kernel, symbol: str, values: list[Any], warp: Any) -> None:
    """A call of Numba's function of a kernel, in the module that is built."""
    byte_pointer = ir.IntType(8).as_pointer()
    results = [byte_pointer.as_pointer(), byte_pointer.as_pointer()]
    kind = ir.FunctionType(I32, [*results, *parameter_types(kernel), I64])
    function = ir.Function(builder.module, kind, symbol)
    unused, no_exception = builder.alloca(byte_pointer), ir.Constant(results[1], None)
    builder.call(function, [unused, no_exception, *values, warp])


def linked(entry: Any, library: Any, kernel: Kernel) -> Any:
    """The module ``entry`` with Numba's ``library``, of which only the kernel's name is seen."""
    module = binding.parse_assembly(str(entry))
    module.link_in(library._final_module, preserve=True)
    for part in (*module.functions, *module.global_variables):
        if not part.is_declaration and part.name != kernel.name:
            part.linkage = "internal"
    return module


def optimize(module: Any, machine: Any, speed_level: int) -> None:
    """LLVM's passes; loops and neighbours are vectors already."""
    options = binding.create_pipeline_tuning_options(speed_level=speed_level)
    options.loop_vectorization = False
    options.slp_vectorization = False
    passes = binding.create_pass_builder(machine, options)
    passes.getModulePassManager().run(module, passes)
