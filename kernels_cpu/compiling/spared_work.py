"""Steps of Numba that kernels do not need, switched off: they take a quarter of its time.

Each function here removes one such step for the rest of the process. The compiled kernels are the
same, byte for byte, and a test compares them.
"""

from __future__ import annotations

import operator
from typing import Any

from numba.core import event, ir, postproc, targetconfig, transforms
from numba.core.compiler_machinery import PassManager

CONTAINER_MODULES = frozenset({"datetime", "listdecl", "npydecl", "setdecl"})
"""Where Numba declares what operators mean for containers."""
ATOMS = frozenset({bool, int, float, str, type(None), ir.Loc})
"""What holds no variable of Numba's intermediate representation."""


def spare_all(typing_context: Any) -> None:
    """Take all of it away, where kernels are typed in this context."""
    _drop_operators_of_containers(typing_context)
    _analyse_passes_once()
    _tell_nobody()
    _find_lifetimes_when_asked()
    _list_variables_faster()
    _compare_flags_faster()


def _drop_operators_of_containers(typing_context: Any) -> None:
    """What is tried for every ``+`` and ``<``: arrays, lists, sets, spans of time."""
    typing_context.refresh()
    for operation in filter(callable, vars(operator).values()):
        known = typing_context._lookup_global(operation)
        if known is not None:
            known.templates = tuple(filter(_is_of_numbers, known.templates)) or known.templates


def _is_of_numbers(template: Any) -> bool:
    modules = {base.__module__.rpartition(".")[2] for base in template.__mro__}
    return not modules & CONTAINER_MODULES


def _analyse_passes_once() -> None:
    """What is found out anew about the same passes, for every function."""
    analyse = PassManager.dependency_analysis
    analysed: dict[tuple[Any, ...], Any] = {}

    def analyse_once(self: Any) -> Any:
        """What each pass needs, which depends on the list of passes alone."""
        passes = tuple(kind for kind, _ in self.passes)
        if passes not in analysed:
            analysed[passes] = analyse(self)
        return analysed[passes]

    PassManager.dependency_analysis = analyse_once


def _tell_nobody() -> None:
    """Events of every call of LLVM and every pass, for listeners that there are not."""

    def ignore(*_: Any, **__: Any) -> None:
        """Nobody listens."""

    event.start_event = event.end_event = ignore


def _find_lifetimes_when_asked() -> None:
    """Where variables live, which is found after each of nine passes and read after two."""
    find_at_once = postproc.PostProcessor.run

    def run(self: Any, emit_dels: bool = False, extend_lifetimes: bool = False) -> None:
        """As Numba's, without the variables of each block, which only Python's objects need."""
        if self.func_ir.is_generator:
            find_at_once(self, emit_dels, extend_lifetimes)
            return
        self.func_ir.blocks = transforms.canonicalize_cfg(self.func_ir.blocks)
        self.func_ir.variable_lifetime = postproc.VariableLifetime(self.func_ir.blocks)
        self.func_ir.generator_info = None
        if emit_dels:
            self._insert_var_dels(extend_lifetimes=extend_lifetimes)

    postproc.PostProcessor.run = run


def _list_variables_faster() -> None:
    """A search through everything that belongs to an instruction, places in sources included."""
    search = ir.Inst._rec_list_vars

    def search_what_can_hold_some(self: Any, value: Any) -> list[Any]:
        """Variables in ``value``."""
        kind = type(value)
        if kind is ir.Var:
            return [value]
        if kind is dict:
            found = []
            for item in value.values():
                if type(item) not in ATOMS:
                    found += search_what_can_hold_some(self, item)
            return found
        variables: list[Any] = [] if kind in ATOMS else search(self, value)
        return variables

    ir.Inst._rec_list_vars = search_what_can_hold_some


def _compare_flags_faster() -> None:
    """Asking a hundred options one by one, where two sets of flags were given the same."""
    compare = targetconfig.TargetConfig.__eq__

    def equals(self: Any, other: Any) -> Any:
        """Flags of one class are equal if the same were given; else all are asked."""
        if type(self) is type(other) and self._values == other._values:
            return True
        return compare(self, other)

    targetconfig.TargetConfig.__eq__ = equals
    # Numba's hash is of the options' names, which a class has in common.
    targetconfig.TargetConfig.__hash__ = lambda self: hash(type(self))
