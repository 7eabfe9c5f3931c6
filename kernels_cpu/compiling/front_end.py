"""From a kernel's Python function to LLVM code, by Numba and LLVM's passes, whatever it is for.

What a process compiles for is set once: Numba caches what it has typed. Which targets there are,
and what becomes of the code, is the caller's business.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numba
from llvmlite import binding, ir
from numba.core import codegen, compiler, registry
from numba.core.compiler_lock import global_compiler_lock

from edgellama.kernels_cpu.compiling.spared_work import spare_all
from edgellama.kernels_cpu.machine.cpu import Tier
from edgellama.kernels_cpu.simd.device import FAST_MATH
from edgellama.quant.errors import KernelError

I32, I64, F32 = ir.IntType(32), ir.IntType(64), ir.FloatType()
BYTE_POINTER = ir.IntType(8).as_pointer()


@dataclass(frozen=True)
class Target:
    """What LLVM compiles for: a triple, and options of its target machine."""

    triple: str
    options: Mapping[str, Any]

    def machine(self) -> Any:
        """LLVM's target machine."""
        return binding.Target.from_triple(self.triple).create_target_machine(**self.options)


@dataclass(frozen=True)
class Source:
    """A kernel's function: what a factory of a module gives for the kernel's options.

    ``parameters`` are all of the function's: int64 but for the named float32 ones. One that
    ``is_exact`` rounds as written.
    """

    module: str
    factory: str
    options: Sequence[Any]
    parameters: tuple[str, ...]
    float_parameters: frozenset[str] = field(default=frozenset())
    is_exact: bool = False

    @property
    def function(self) -> Any:
        """The function; KernelError unless it takes the parameters."""
        function = getattr(importlib.import_module(self.module), self.factory)(*self.options)
        if tuple(inspect.signature(function).parameters) != self.parameters:
            raise KernelError(f"{self.factory} in {self.module} does not take {self.parameters}")
        return function

    @property
    def llvm_types(self) -> list[Any]:
        """LLVM's types of the parameters."""
        return [F32 if name in self.float_parameters else I64 for name in self.parameters]


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


class TargetCodegen(codegen.AOTCPUCodegen):
    """Numba code generation for a target, of which nothing runs in this process."""

    _library_class = KernelLibrary

    def __init__(self, name: str, target: Target) -> None:
        self._target = target
        super().__init__(f"edgellama.{name}")

    def _init(self, llvm_module: Any) -> None:
        super()._init(llvm_module)
        self._tm = self._target.machine()
        self._target_data = self._tm.target_data
        self._data_layout = str(self._target_data)

    def _create_empty_module(self, name: str) -> Any:
        module = super()._create_empty_module(name)
        module.triple = self._target.triple
        return module


def use_target(tier: Tier, target: Target) -> None:
    """Make this process compile for ``tier``; a second, different tier is refused."""
    typing_context = registry.cpu_target.typing_context
    current = getattr(typing_context, "edgellama_tier", None)
    if current is not None and current != tier:
        raise KernelError(f"this process already compiles for {current.name}, not for {tier.name}")
    if current is None:
        typing_context.edgellama_tier = tier
        target_context = registry.cpu_target.target_context
        target_context._internal_codegen = TargetCodegen(tier.name, target)
        # Numba keeps a distinct built-in callable per function; none is ever called here.
        target_context.get_executable = lambda library, descriptor, environment: [].append
        spare_all(typing_context)


def target_machine() -> Any:
    """The target machine of what this process compiles for."""
    return registry.cpu_target.target_context.codegen()._tm


def typed_library(source: Source) -> tuple[Any, str]:
    """Numba's library of a kernel, and the symbol of its function."""
    flags = compiler.Flags()
    flags.nrt = False
    flags.no_compile = True
    flags.no_cpython_wrapper = True
    flags.no_cfunc_wrapper = True
    flags.error_model = "numpy"
    if not source.is_exact:
        flags.fastmath = set(FAST_MATH)
    floats = source.float_parameters
    arguments = [numba.float32 if p in floats else numba.int64 for p in source.parameters]
    target = registry.cpu_target
    result = compiler.compile_extra(
        target.typing_context, target.target_context, source.function, tuple(arguments),
        numba.void, flags, {},
    )  # fmt: skip
    with global_compiler_lock:
        result.library.finalize()
    return result.library, result.fndesc.llvm_func_name


def call_function(builder: Any, source: Source, symbol: str, values: Sequence[Any]) -> None:
    """A call of Numba's function of a kernel, in the module that is built."""
    results = [BYTE_POINTER.as_pointer(), BYTE_POINTER.as_pointer()]
    kind = ir.FunctionType(I32, [*results, *source.llvm_types])
    function = ir.Function(builder.module, kind, symbol)
    unused, no_exception = builder.alloca(BYTE_POINTER), ir.Constant(results[1], None)
    builder.call(function, [unused, no_exception, *values])


def linked(entry: Any, library: Any, name: str) -> Any:
    """The module ``entry`` with Numba's ``library``, of which only ``name`` is seen."""
    module = binding.parse_assembly(str(entry))
    module.link_in(library._final_module, preserve=True)
    for part in (*module.functions, *module.global_variables):
        if not part.is_declaration and part.name != name:
            part.linkage = "internal"
    return module


def optimize(module: Any, machine: Any, speed_level: int = 3) -> None:
    """LLVM's passes; loops and neighbours are vectors already."""
    options = binding.create_pipeline_tuning_options(speed_level=speed_level)
    options.loop_vectorization = False
    options.slp_vectorization = False
    passes = binding.create_pass_builder(machine, options)
    passes.getModulePassManager().run(module, passes)
