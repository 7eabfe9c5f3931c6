"""Compiles kernels of the card for the CPU: each value of a lane is a vector of 32 lanes.

The same functions as for PTX, so tests without a card run what the card runs. Nothing else uses it:
it is right, not fast. A warp's function takes the address of the kernel's arguments, one in each
slot of 8 bytes, and of the warp's record, see ``warp``.
"""

from __future__ import annotations

from typing import Any

from llvmlite import binding, ir
from numba.core import registry

from edgellama.cuda.kernels.front_end import typed_library
from edgellama.cuda.signatures import CARD_SIGNATURES
from edgellama.kernels_cpu.compiling import jit
from edgellama.kernels_cpu.signatures import Kernel

I32, I64, F32 = ir.IntType(32), ir.IntType(64), ir.FloatType()


def compile_object(kernel: Kernel) -> bytes:
    """Object code for the tier of ``jit.use_tier``, with one symbol: the kernel's name."""
    machine = registry.cpu_target.target_context.codegen()._tm
    library, symbol = typed_library(kernel)
    module = binding.parse_assembly(str(_entry_module(kernel, symbol)))
    module.link_in(library._final_module, preserve=True)
    for function in module.functions:
        if not function.is_declaration and function.name != kernel.name:
            function.linkage = "internal"
    for variable in module.global_variables:
        if not variable.is_declaration:
            variable.linkage = "internal"
    options = binding.create_pipeline_tuning_options(speed_level=1)
    options.loop_vectorization = False
    options.slp_vectorization = False
    passes = binding.create_pass_builder(machine, options)
    passes.getModulePassManager().run(module, passes)
    return bytes(machine.emit_object(module))


def _entry_module(kernel: Kernel, symbol: str) -> Any:
    """``void(arguments, record, unused)``, as all kernels of the CPU are called."""
    signature = CARD_SIGNATURES[kernel]
    module = ir.Module(kernel.name)
    module.triple = jit.object_triple()
    kinds = [F32 if p in signature.float_parameters else I64 for p in signature.parameters]
    byte_pointer = ir.IntType(8).as_pointer()
    results = [byte_pointer.as_pointer(), byte_pointer.as_pointer()]
    inner = ir.Function(module, ir.FunctionType(I32, [*results, *kinds, I64]), symbol)
    entry = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64, I64, I64]), kernel.name)
    entry.attributes.add("nounwind")
    entry.attributes.alignstack = jit.STACK_ALIGNMENT
    arguments, warp, _ = entry.args
    builder = ir.IRBuilder(entry.append_basic_block())
    values = []
    for slot, kind in enumerate(kinds):
        at = builder.add(arguments, I64(8 * slot))
        values.append(builder.load(builder.inttoptr(at, kind.as_pointer()), align=4))
    unused, no_exception = builder.alloca(byte_pointer), ir.Constant(results[1], None)
    builder.call(inner, [unused, no_exception, *values, warp])
    builder.ret_void()
    return module
