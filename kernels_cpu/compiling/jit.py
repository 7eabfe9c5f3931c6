"""Compiles kernels to relocatable object code for one tier.

Knows what objects look like that are loaded without a linker; runs in a process of its own
(``compile_worker``), so that the user's process pays for neither Numba nor LLVM. Kernels may
neither raise nor allocate, which is checked on the finished object's symbols.
"""

from __future__ import annotations

from typing import Any

from llvmlite import binding, ir

from edgellama.kernels_cpu.compiling.front_end import (
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
from edgellama.kernels_cpu.signatures import Kernel, signature_of
from edgellama.quant.errors import KernelError

ALLOWED_SYMBOLS = frozenset({"memcpy", "memset", "memmove"})
LIBM_INTRINSICS = frozenset(
    f"llvm.{name}"
    for name in ("exp", "exp2", "exp10", "log", "log2", "log10", "sin", "cos", "tan", "pow", "powi")
)
"""LLVM functions that become calls of the C library's mathematics."""
STACK_ALIGNMENT = 64
"""Vectors that do not fit the registers lie on the stack, where they must not cross cache lines."""


def object_triple() -> str:
    """This system's triple, whose calling convention kernels have, for ELF objects everywhere."""
    triple: str = binding.get_process_triple()
    return triple if "linux" in triple else f"{triple}-elf"


def target_options(tier: Tier) -> dict[str, Any]:
    """How LLVM is told to compile for a tier: code that reaches its constants wherever it lies."""
    x86 = binding.get_process_triple().startswith("x86")
    return {
        "cpu": tier.llvm_cpu or ("x86-64" if x86 else "generic"),
        "features": tier.llvm_features,
        "reloc": "pic",
        "codemodel": "small",
        "opt": 3,
    }


def use_tier(tier: Tier) -> None:
    """Make this process compile for ``tier``; a second, different tier is refused."""
    use_target(tier, Target(object_triple(), target_options(tier)))


def compile_kernel(kernel: Kernel) -> bytes:
    """Object code of one kernel, with one symbol: its name, ``void(args, thread, job)``.

    Raises KernelError when the code needs a symbol from outside.
    """
    name, signature = kernel.name, signature_of(kernel)
    source = Source(
        f"edgellama.kernels_cpu.{signature.module}", signature.factory, kernel.options,
        (*signature.parameters, "thread", "job"), signature.float_parameters,
    )  # fmt: skip
    library, symbol = typed_library(source)
    module = linked(entry_module(name, source, symbol, num_own=2), library, name)
    machine = target_machine()
    optimize(module, machine)
    _check_symbols(name, module)
    return bytes(machine.emit_object(module))


def entry_module(name: str, source: Source, symbol: str, num_own: int) -> Any:
    """A function that reads a kernel's arguments from its record and calls it.

    The record is its first argument; of the two others the kernel's last parameters are the first
    ``num_own``.
    """
    module = ir.Module(name)
    module.triple = object_triple()
    entry = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64, I64, I64]), name)
    entry.attributes.add("nounwind")
    entry.attributes.alignstack = STACK_ALIGNMENT
    record, *others = entry.args
    builder = ir.IRBuilder(entry.append_basic_block())
    values = []
    for slot, kind in enumerate(source.llvm_types[:-num_own]):
        at = builder.add(record, ir.Constant(I64, 8 * slot))
        values.append(builder.load(builder.inttoptr(at, kind.as_pointer()), align=4))
    call_function(builder, source, symbol, [*values, *others[:num_own]])
    builder.ret_void()
    return module


def _check_symbols(name: str, module: Any) -> None:
    missing = sorted(
        function.name
        for function in module.functions
        if function.is_declaration
        and not _is_instruction(function.name)
        and function.name not in ALLOWED_SYMBOLS
    )
    if missing:
        raise KernelError(f"kernel {name} needs {', '.join(missing)}; kernels may call nothing")


def _is_instruction(name: str) -> bool:
    return name.startswith("llvm.") and ".".join(name.split(".")[:2]) not in LIBM_INTRINSICS
