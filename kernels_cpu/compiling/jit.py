"""Compiles kernels to relocatable object code for one tier.

Knows Numba and LLVM; runs in a process of its own (``compile_worker``), so that the user's
process pays for neither. One tier per process: Numba caches what it has typed. Kernels may
neither raise nor allocate, which is checked on the finished object's symbols.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import numba
from llvmlite import binding, ir
from numba.core import codegen, compiler, registry
from numba.core.compiler_lock import global_compiler_lock

from edgellama.kernels_cpu.compiling.spared_work import spare_all
from edgellama.kernels_cpu.machine.cpu import Tier
from edgellama.kernels_cpu.signatures import Kernel, Signature, signature_of
from edgellama.kernels_cpu.simd.device import FAST_MATH
from edgellama.quant.errors import KernelError

ALLOWED_SYMBOLS = frozenset({"memcpy", "memset", "memmove"})
LIBM_INTRINSICS = frozenset(
    f"llvm.{name}"
    for name in ("exp", "exp2", "exp10", "log", "log2", "log10", "sin", "cos", "tan", "pow", "powi")
)
"""LLVM functions that become calls of the C library's mathematics."""
STACK_ALIGNMENT = 64
"""Vectors that do not fit the registers lie on the stack, where they must not cross cache lines."""
I32, I64, F32 = ir.IntType(32), ir.IntType(64), ir.FloatType()


class KernelLibrary(codegen.AOTCodeLibrary):
    """The code of a function and of those that it calls, as it was written.

    Numba optimizes every function's, callees included; once they are all in one kernel is enough.
    """

    def _optimize_functions(self, ll_module: Any) -> None:
        """As Numba's, but for functions that are only declared here."""
        ll_module.data_layout = self._codegen._data_layout
        for function in ll_module.functions:
            if not function.is_declaration:
                passes, builder = self._codegen._function_pass_manager()
                passes.run(function, builder)

    def _optimize_final_module(self) -> None:
        pass


class TierCodegen(codegen.AOTCPUCodegen):
    """Numba code generation that only ever produces objects, for a tier's instruction set."""

    _library_class = KernelLibrary

    def __init__(self, tier: Tier) -> None:
        self._tier = tier
        super().__init__(f"edgellama.{tier.name}")

    def _init(self, llvm_module: Any) -> None:
        super()._init(llvm_module)
        target = binding.Target.from_triple(object_triple())
        self._tm = target.create_target_machine(**target_options(self._tier))
        self._target_data = self._tm.target_data
        self._data_layout = str(self._target_data)

    def _create_empty_module(self, name: str) -> Any:
        module = super()._create_empty_module(name)
        module.triple = object_triple()
        return module

    def _customize_tm_options(self, options: dict[str, Any]) -> None:
        options.update(target_options(self._tier))


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
    typing_context = registry.cpu_target.typing_context
    current = getattr(typing_context, "edgellama_tier", None)
    if current is not None and current != tier:
        raise KernelError(f"this process already compiles for {current.name}, not for {tier.name}")
    if current is None:
        typing_context.edgellama_tier = tier
        target_context = registry.cpu_target.target_context
        target_context._internal_codegen = TierCodegen(tier)
        # Numba keeps a distinct built-in callable per function; none is ever called here.
        target_context.get_executable = lambda library, descriptor, environment: [].append
        spare_all(typing_context)


def compile_kernel(kernel: Kernel) -> bytes:
    """Object code of one kernel, with one symbol: its name, ``void(args, thread, job)``.

    Raises KernelError when the code needs a symbol from outside.
    """
    name, signature = kernel.name, signature_of(kernel)
    library, symbol = _typed_library(kernel, signature)
    module = binding.parse_assembly(str(_entry_module(name, symbol, signature)))
    module.link_in(library._final_module, preserve=True)
    for function in module.functions:
        if not function.is_declaration and function.name != name:
            function.linkage = "internal"
    for variable in module.global_variables:
        if not variable.is_declaration:
            variable.linkage = "internal"
    machine = _target_machine()
    _optimize(module, machine)
    _check_symbols(name, module)
    return bytes(machine.emit_object(module))


def _target_machine() -> Any:
    return registry.cpu_target.target_context.codegen()._tm


def _typed_library(kernel: Kernel, signature: Signature) -> tuple[Any, str]:
    """Numba's library for a kernel and the symbol of its function."""
    module = importlib.import_module(f"edgellama.kernels_cpu.{signature.module}")
    function = getattr(module, signature.factory)(*kernel.options)
    expected = (*signature.parameters, "thread", "job")
    if tuple(inspect.signature(function).parameters) != expected:
        raise KernelError(f"{signature.factory} in {signature.module} does not take {expected}")
    flags = compiler.Flags()
    flags.nrt = False
    flags.no_compile = True
    flags.no_cpython_wrapper = True
    flags.no_cfunc_wrapper = True
    flags.error_model = "numpy"
    flags.fastmath = set(FAST_MATH)
    arguments = [
        numba.float32 if p in signature.float_parameters else numba.int64 for p in expected
    ]
    target = registry.cpu_target
    result = compiler.compile_extra(
        target.typing_context,
        target.target_context,
        function,
        tuple(arguments),
        numba.void,
        flags,
        {},
    )
    with global_compiler_lock:
        result.library.finalize()
    return result.library, result.fndesc.llvm_func_name


def _entry_module(name: str, symbol: str, signature: Signature) -> Any:
    """A function that reads a kernel's arguments from its record and calls it."""
    module = ir.Module(name)
    module.triple = object_triple()
    kinds = [F32 if p in signature.float_parameters else I64 for p in signature.parameters]
    byte_pointer = ir.IntType(8).as_pointer()
    inner_type = ir.FunctionType(
        I32, [byte_pointer.as_pointer(), byte_pointer.as_pointer(), *kinds, I64, I64]
    )
    inner = ir.Function(module, inner_type, symbol)
    entry = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64, I64, I64]), name)
    entry.attributes.add("nounwind")
    entry.attributes.alignstack = STACK_ALIGNMENT
    record, thread, job = entry.args
    builder = ir.IRBuilder(entry.append_basic_block())
    unused = builder.alloca(byte_pointer)
    no_exception = ir.Constant(byte_pointer.as_pointer(), None)
    values = []
    for slot, kind in enumerate(kinds):
        at = builder.add(record, ir.Constant(I64, 8 * slot))
        values.append(builder.load(builder.inttoptr(at, kind.as_pointer()), align=4))
    builder.call(inner, [unused, no_exception, *values, thread, job])
    builder.ret_void()
    return module


def _optimize(module: Any, machine: Any) -> None:
    options = binding.create_pipeline_tuning_options(speed_level=3)
    options.loop_vectorization = False
    options.slp_vectorization = False
    passes = binding.create_pass_builder(machine, options)
    passes.getModulePassManager().run(module, passes)


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
