"""Compiles a kernel to PTX, the text from which the card's driver makes machine code.

This module knows the NVPTX back end of LLVM, which llvmlite includes. It fixes an old version of
PTX, so that old drivers accept the result, and it refuses code that calls functions outside itself.
Like ``kernels_cpu.compiling.jit`` it runs in a worker process: ``ptx_worker``.
"""

from __future__ import annotations

from typing import Any

from llvmlite import binding, ir

from edgellama.cuda.kernels.front_end import source_of
from edgellama.cuda.layouts import WARP
from edgellama.cuda.signatures import CARD_SIGNATURES
from edgellama.kernels_cpu.compiling.front_end import (
    I32,
    I64,
    Source,
    Target,
    call_function,
    linked,
    optimize,
    target_machine,
    typed_library,
    use_target,
)
from edgellama.kernels_cpu.machine.cpu import Tier
from edgellama.kernels_cpu.signatures import Kernel
from edgellama.quant.errors import KernelError

TRIPLE = "nvptx64-nvidia-cuda"


def use_card(tier: Tier) -> None:
    """Make this process compile for cards of ``tier``; a second, different tier is refused."""
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    options = {"cpu": tier.llvm_cpu, "features": tier.llvm_features, "opt": 3}
    use_target(tier, Target(TRIPLE, options))


def compile_ptx(kernel: Kernel) -> str:
    """PTX of one kernel, with one entry: its name. KernelError if it needs what is not in it."""
    source, machine = source_of(kernel), target_machine()
    library, symbol = typed_library(source)
    module = linked(_entry_module(kernel, source, symbol), library, kernel.name)
    for function in module.functions:
        if not function.is_declaration and function.name != kernel.name:
            function.add_function_attribute("alwaysinline")
    optimize(module, machine)
    missing = [f.name for f in module.functions
               if f.is_declaration and not f.name.startswith("llvm.")]  # fmt: skip
    if missing:
        raise KernelError(f"kernel {kernel.name} needs {', '.join(missing)}; it may call nothing")
    ptx: str = machine.emit_assembly(module)
    return ptx


def _entry_module(kernel: Kernel, source: Source, symbol: str) -> Any:
    """The kernel as the driver launches it, which calls Numba's function."""
    signature = CARD_SIGNATURES[kernel]
    module = ir.Module(kernel.name)
    module.triple = TRIPLE
    kind = ir.FunctionType(ir.VoidType(), source.llvm_types[:-1])
    entry = ir.Function(module, kind, kernel.name)
    entry.calling_convention = "ptx_kernel"
    builder = ir.IRBuilder(entry.append_basic_block())
    call_function(builder, source, symbol, [*entry.args, I64(0)])
    builder.ret_void()
    notes = {"maxntidx": signature.num_warps * WARP, "minctasm": signature.min_blocks}
    for name, number in notes.items():
        if number:
            note = [entry, ir.MetaDataString(module, name), I32(number)]
            module.add_named_metadata("nvvm.annotations").add(module.add_metadata(note))
    return module
