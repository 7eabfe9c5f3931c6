"""A program: a table of kernel calls with their argument records, and values bound per step.

It knows how arguments are packed, but nothing about models. Values that change from step to step,
such as numbers of tokens and segments, are named when the program is built, and bound before each
run.
"""

from __future__ import annotations

import struct
import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edgellama.kernels_cpu.compiling.code_cache import CompiledKernels
from edgellama.kernels_cpu.signatures import SIGNATURES, Kernel
from edgellama.kernels_cpu.threads import team_layout as layout
from edgellama.kernels_cpu.threads.thread_team import aligned_words
from edgellama.quant.records import dataclass

Words: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Bound:
    """A value given before each run: what is bound to ``name``, plus ``offset``."""

    name: str
    offset: int = 0


Arguments: TypeAlias = dict[str, int | float | Bound]


@dataclass(frozen=True)
class Op:
    """One kernel call; ``barrier`` says whether the next op must wait for it.

    ``arguments`` are all of the kernel's but its counter, which the program adds.
    """

    kernel: Kernel
    arguments: Arguments
    barrier: bool = True
    label: str = ""

    def __post_init__(self) -> None:
        expected = SIGNATURES[self.kernel].parameters[:-1]
        is_there = self.arguments.__contains__
        if len(self.arguments) != len(expected) or not all(map(is_there, expected)):
            raise TypeError(f"{self.kernel.name} takes {expected}, not {tuple(self.arguments)}")

    def with_bound(self, old: Bound | int, new: Bound) -> Op:
        """The same call with a bound value in the place of another one, or of an address."""
        arguments = {key: new if value == old else value for key, value in self.arguments.items()}
        return replace(self, arguments=arguments)


class Program:
    """Ops packed for the executor; the last op has a barrier."""

    def __init__(
        self, ops: Sequence[Op], kernels: CompiledKernels, *, keeps_ops: bool = False
    ) -> None:
        """``keeps_ops``: keep them for instruments; they take ten times the program."""
        if not ops or not ops[-1].barrier:
            raise ValueError("a program ends with a barrier")
        self.ops = tuple(ops) if keeps_ops else ()
        self._counters = aligned_words(len(ops) * layout.COUNTER_BYTES).reshape(len(ops), -1)
        self._fresh_counter = np.zeros(layout.COUNTER_WORDS, np.int64)
        self._fence = threading.Lock()
        bindings: dict[str, list[tuple[int, int]]] = defaultdict(list)
        slots: list[int | float] = []
        starts: list[int] = []
        first_counter = int(self._counters.ctypes.data)
        counters = range(first_counter, first_counter + self._counters.nbytes, layout.COUNTER_BYTES)
        for op, counter in zip(ops, counters, strict=True):
            starts.append(len(slots))
            signature = SIGNATURES[op.kernel]
            for parameter in signature.parameters[:-1]:
                value = op.arguments[parameter]
                if isinstance(value, Bound):
                    bindings[value.name].append((len(slots), value.offset))
                    slots.append(0)
                elif parameter in signature.float_parameters:
                    slots.append(_float_word(value))
                else:
                    slots.append(value)
            slots.append(counter)
        self._records: Words = np.array(slots, np.int64)
        self._bindings = {
            name: np.array(pairs, np.int64).T.copy() for name, pairs in bindings.items()
        }
        self._bound: dict[str, int] = {}
        records = int(self._records.ctypes.data)
        addresses = {kernel: kernels.address(kernel.name) for kernel in {op.kernel for op in ops}}
        words = [len(ops)]
        for op, start, counter in zip(ops, starts, counters, strict=True):
            words += (addresses[op.kernel], records + 8 * start, counter, op.barrier)
        self.memory: Words = np.array(words, np.int64)

    def prepare(self, job: int, **values: int) -> None:
        """Make all tasks of ``job`` available, and bind values; unused names are ignored."""
        self._fresh_counter[layout.NEXT_TASK // 8] = job << layout.JOB_SHIFT
        self._counters[:, : layout.COUNTER_WORDS] = self._fresh_counter
        if values:
            self._show_counters_first()
        for name, value in values.items():
            # Most values stay from step to step; an interrupted change must not count as made.
            if name in self._bindings and self._bound.get(name) != value:
                self._bound.pop(name, None)
                places, offsets = self._bindings[name]
                self._records[places] = offsets + value
                self._bound[name] = value

    def _show_counters_first(self) -> None:
        """Let every processor see what was written so far before what is written from now on.

        A thread that is late in the job before may read new values already. With the old counters
        it would then take a task that its job never had, and Arm may show stores in another order
        than they were made in. Python has no fence, but a lock that is released and taken again is
        one.
        """
        for _ in range(2):
            with self._fence:
                pass

    @property
    def progress(self) -> int:
        """Another number whenever a thread has taken a task or done some; for any thread."""
        return int(self._counters[:, : layout.COUNTER_WORDS].sum())

    def withdraw(self) -> None:
        """Take away all tasks that no thread has taken yet, of a job that is being stopped."""
        self._counters[:, layout.NEXT_TASK // 8] = 0


def _float_word(value: float) -> int:
    """The 8-byte slot of an f32."""
    return int.from_bytes(struct.pack("<f", value), "little")
