"""The part of the driver's test double that knows no function: it records, checks and fails calls.

Each function of the driver is a method of its name with an underscore before it, which returns a
code, or None for success.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from edgellama.cuda.driver import FUNCTIONS, SUCCESS

INVALID_VALUE, INVALID_CONTEXT, INVALID_HANDLE, ILLEGAL_ADDRESS, UNKNOWN = 1, 201, 400, 700, 999
NEEDS_NO_CONTEXT = frozenset(
    name for name in FUNCTIONS
    if name.startswith(("cuInit", "cuDriver", "cuGetError", "cuDevice", "cuCtxPush", "cuCtxPop"))
)  # fmt: skip
STILL_ANSWERS = frozenset({"cuCtxPopCurrent", "cuDriverGetVersion", "cuInit"})
"""Functions that a lost card does not fail."""


class FakeLibrary:
    """Has a function of ctypes for every symbol that the driver's library has.

    ``calls``: names in order. ``violations``: what a real driver would not forgive. ``missing``:
    names of functions that it lacks.
    """

    def __init__(self, missing: Sequence[str] = ()) -> None:
        self.calls: list[str] = []
        self.violations: list[str] = []
        self.live: defaultdict[str, set[int]] = defaultdict(set)
        self.lost = SUCCESS
        self.current: defaultdict[int, list[int]] = defaultdict(list)
        self._owners: dict[int, int] = {}
        self._failures: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self._counts: Counter[str] = Counter()
        self._handles = itertools.count(0x1000, 0x10)
        self._lock = threading.RLock()
        for name, (symbol, types) in FUNCTIONS.items():
            if name not in missing:
                prototype = ctypes.CFUNCTYPE(ctypes.c_int, *types)
                setattr(self, symbol, prototype(self._recorder(name)))

    def fail(self, name: str, code: int, at: int = 1) -> None:
        """Have the ``at``-th call of a function from now on return ``code``."""
        self._failures[name].append((self._counts[name] + at, code))

    def lose(self, code: int = ILLEGAL_ADDRESS) -> None:
        """Have everything fail from now on, as after a fault of a kernel."""
        self.lost = code

    @property
    def contexts(self) -> list[int]:
        """The calling thread's contexts, the current one last."""
        return self.current[threading.get_ident()]

    def _recorder(self, name: str) -> Callable[..., int]:
        method = getattr(self, f"_{name}")

        def call(*arguments: Any) -> int:
            with self._lock:
                if name.startswith("cuGetError"):
                    return int(method(*arguments))
                self.calls.append(name)
                self._counts[name] += 1
                planned = [code for at, code in self._failures[name] if at == self._counts[name]]
                if planned:
                    return planned[0]
                if self.lost and name not in STILL_ANSWERS:
                    return self.lost
                if name not in NEEDS_NO_CONTEXT and not self.contexts:
                    return self._violation(f"{name} without a context", INVALID_CONTEXT)
                try:
                    return method(*arguments) or SUCCESS
                except Exception as error:
                    return self._violation(f"{name}: {error!r}", UNKNOWN)

        return call

    def _violation(self, text: str, code: int) -> int:
        self.violations.append(text)
        return code

    def _new(self, kind: str) -> int:
        handle = next(self._handles)
        self.live[kind].add(handle)
        self._owners[handle] = self.contexts[-1]
        return handle

    def _is_usable(self, kind: str, handle: int) -> bool:
        """Whether it is there, and belongs to the current context."""
        is_there = handle in self.live[kind]
        if not is_there or self._owners[handle] != self.contexts[-1]:
            self._violation(f"{kind} {handle:#x} is not there, or of another context", 0)
            return False
        return True

    def _drop(self, kind: str, handle: int) -> int:
        if not self._is_usable(kind, handle):
            return INVALID_HANDLE
        self.live[kind].remove(handle)
        return SUCCESS
