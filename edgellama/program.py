"""A program: a table of kernel calls with their argument records, and the values bound per step.

Knows how arguments are packed, not what a model is. Values that change from step to step
(number of tokens, position, addresses of the cache) are named when the program is built and
bound before each run.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgellama.kernels_cpu.code_cache import CompiledKernels
from edgellama.kernels_cpu.signatures import SIGNATURES

Words = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Bound:
    """A value given before each run: what is bound to ``name``, plus ``offset``."""

    name: str
    offset: int = 0


COUNTER = Bound("counter")
"""The address of a work counter of the op's own, which is zero when the program starts."""


@dataclass(frozen=True)
class Op:
    """One kernel call; ``barrier`` says whether the next op must wait for all threads."""

    kernel: str
    arguments: dict[str, int | float | Bound]
    barrier: bool = True
    label: str = ""

    def __post_init__(self) -> None:
        expected = SIGNATURES[self.kernel].parameters
        if set(self.arguments) != set(expected):
            raise TypeError(f"{self.kernel} takes {expected}, not {tuple(self.arguments)}")


class Program:
    """Ops packed for the executor; the last op has a barrier."""

    def __init__(self, ops: list[Op], kernels: CompiledKernels) -> None:
        self.ops = tuple(ops)
        if not ops or not ops[-1].barrier:
            raise ValueError("a program ends with a barrier")
        slots: list[int] = []
        starts: list[int] = []
        counters: list[int] = []
        bindings: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for op in ops:
            starts.append(len(slots))
            signature = SIGNATURES[op.kernel]
            for parameter in signature.parameters:
                value = op.arguments[parameter]
                if value is COUNTER:
                    counters.append(len(slots))
                elif isinstance(value, Bound):
                    bindings[value.name].append((len(slots), value.offset))
                slots.append(_word(value, parameter in signature.float_parameters))
        self._records: Words = np.array(slots, np.int64)
        self._counters: Words = np.zeros(len(counters), np.int64)
        self._records[counters] = self._counters.ctypes.data + 8 * np.arange(len(counters))
        self._bindings = {
            name: (np.array([s for s, _ in pairs]), np.array([o for _, o in pairs], np.int64))
            for name, pairs in bindings.items()
        }
        base = int(self._records.ctypes.data)
        self.table: Words = np.array(
            [
                [kernels.address(op.kernel), base + 8 * start, int(op.barrier)]
                for op, start in zip(ops, starts, strict=True)
            ],
            np.int64,
        )

    def prepare(self, **values: int) -> None:
        """Reset the work counters and bind values; names that the program lacks are ignored."""
        self._counters[:] = 0
        for name, value in values.items():
            if name in self._bindings:
                places, offsets = self._bindings[name]
                self._records[places] = offsets + value


def _word(value: int | float | Bound, is_float: bool) -> int:
    """The 8-byte slot of one argument."""
    if isinstance(value, Bound):
        return 0
    packed = struct.pack("<f4x", value) if is_float else struct.pack("<q", value)
    return int(struct.unpack("<q", packed)[0])
