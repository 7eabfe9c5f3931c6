"""Compiles kernels to PTX, the text that the card's driver makes code of.

Knows Numba and LLVM, whose NVPTX back end llvmlite brings along; runs in a process of its own, as
``kernels_cpu.compiling.jit``. PTX is of old versions, so that old drivers take it, and nothing
outside it is called.
"""

from __future__ import annotations

from typing import Any

from llvmlite import binding, ir
from numba.core import codegen, registry

from edgellama.cuda.kernels.front_end import (
    I32,
    I64,
    call_function,
    linked,
    optimize,
    parameter_types,
    typed_library,
)
from edgellama.cuda.layouts import WARP
from edgellama.cuda.signatures import CARD_SIGNATURES
from edgellama.kernels_cpu.machine.cpu import Tier
from edgellama.kernels_cpu.signatures import Kernel
from edgellama.quant.errors import KernelError

TRIPLE = "nvptx64-nvidia-cuda"


class PtxLibrary(codegen.AOTCodeLibrary):
    """The code of a function and of those that it calls, as it was written."""

    def _optimize_final_module(self) -> None:
        pass


class PtxCodegen(codegen.AOTCPUCodegen):
    """Numba code generation for the card."""

    _library_class = PtxLibrary

    def __init__(self, tier: Tier) -> None:
        self._tier = tier
        super().__init__(f"edgellama.{tier.name}")

    def _init(self, llvm_module: Any) -> None:
        super()._init(llvm_module)
        self._tm = _target_machine(self._tier)
        self._target_data = self._tm.target_data
        self._data_layout = str(self._target_data)

    def _create_empty_module(self, name: str) -> Any:
        module = super()._create_empty_module(name)
        module.triple = TRIPLE
        return module


def _target_machine(tier: Tier) -> Any:
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    target = binding.Target.from_triple(TRIPLE)
    return target.create_target_machine(cpu=tier.llvm_cpu, features=tier.llvm_features, opt=3)


def use_card(tier: Tier) -> None:
    """Make this process compile for cards of ``tier``; a second, different tier is refused."""
    typing_context = registry.cpu_target.typing_context
    current = getattr(typing_context, "edgellama_tier", None)
    if current is not None and current != tier:
        raise KernelError(f"this process already compiles for {current.name}, not for {tier.name}")
    if current is None:
        typing_context.edgellama_tier = tier
        target_context = registry.cpu_target.target_context
        target_context._internal_codegen = PtxCodegen(tier)
        target_context.get_executable = lambda library, descriptor, environment: [].append


def compile_ptx(kernel: Kernel) -> str:
    """PTX of one kernel, with one entry: its name. KernelError if it needs what is not in it."""
    machine = registry.cpu_target.target_context.codegen()._tm
    library, symbol = typed_library(kernel)
    module = linked(_entry_module(kernel, symbol), library, kernel)
    for function in module.functions:
        if not function.is_declaration and function.name != kernel.name:
            function.add_function_attribute("alwaysinline")
    optimize(module, machine, speed_level=3)
    missing = [f.name for f in module.functions
               if f.is_declaration and not f.name.startswith("llvm.")]  # fmt: skip
    if missing:
        raise KernelError(f"kernel {kernel.name} needs {', '.join(missing)}; it may call nothing")
    ptx: str = machine.emit_assembly(module)
    return ptx


def _entry_module(kernel: Kernel, symbol: str) -> Any:
    """The kernel as the driver launches it, which calls Numba's function."""
    signature = CARD_SIGNATURES[kernel]
    module = ir.Module(kernel.name)
    module.triple = TRIPLE
    kind = ir.FunctionType(ir.VoidType(), parameter_types(kernel))
    entry = ir.Function(module, kind, kernel.name)
    entry.calling_convention = "ptx_kernel"
    builder = ir.IRBuilder(entry.append_basic_block())
    call_function(builder, kernel, symbol, entry.args, I64(0))
    builder.ret_void()
    notes = {"maxntidx": signature.num_warps * WARP, "minctasm": signature.min_blocks}
    for name, number in notes.items():
        if number:
            note = [entry, ir.MetaDataString(module, name), I32(number)]
            module.add_named_metadata("nvvm.annotations").add(module.add_metadata(note))
    return module
