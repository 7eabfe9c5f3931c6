"""Compiles kernels of the card for the CPU: each value of a lane is a vector of 32 lanes.

The same functions as for PTX, so tests without a card run what the card runs. Nothing else uses it:
it is right, not fast. A warp's function takes the address of the kernel's arguments, one in each
slot of 8 bytes, and of the warp's record, see ``warp``.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import registry

from edgellama.cuda.kernels.front_end import (
    I64,
    call_function,
    linked,
    optimize,
    parameter_types,
    typed_library,
)
from edgellama.kernels_cpu.compiling import jit
from edgellama.kernels_cpu.signatures import Kernel


def compile_object(kernel: Kernel) -> bytes:
    """Object code for the tier of ``jit.use_tier``, with one symbol: the kernel's name."""
    machine = registry.cpu_target.target_context.codegen()._tm
    library, symbol = typed_library(kernel)
    module = linked(_entry_module(kernel, symbol), library, kernel)
    optimize(module, machine, speed_level=1)
    return bytes(machine.emit_object(module))


def _entry_module(kernel: Kernel, symbol: str) -> Any:
    """``void(arguments, record, unused)``, as all kernels of the CPU are called."""
    module = ir.Module(kernel.name)
    module.triple = jit.object_triple()
    entry = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64, I64, I64]), kernel.name)
    entry.attributes.add("nounwind")
    entry.attributes.alignstack = jit.STACK_ALIGNMENT
    arguments, warp, _ = entry.args
    builder = ir.IRBuilder(entry.append_basic_block())
    values = []
    for slot, kind in enumerate(parameter_types(kernel)):
        at = builder.add(arguments, I64(8 * slot))
        values.append(builder.load(builder.inttoptr(at, kind.as_pointer()), align=4))
    call_function(builder, kernel, symbol, values, warp)
    builder.ret_void()
    return module
