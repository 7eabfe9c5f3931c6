"""The state of all threads that run at once: registers, which threads are active, what time it is.

Threads of several blocks run in one piece, block after block, warp after warp, each instruction for
all that are active. A register is one array over all threads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ptx_machine.faults import Array, PtxFault, ThreadFault, check
from ptx_machine.global_memory import GlobalMemory
from ptx_machine.shared_memory import SharedMemory
from ptx_machine.text import Entry, Immediate, Operand, Register, Special, Symbol

WARP = 32
UNSIGNED = {
    1: np.dtype(bool),
    8: np.dtype("u1"),
    16: np.dtype("u2"),
    32: np.dtype("u4"),
    64: np.dtype("u8"),
}
Read = Callable[["Threads"], Array]
Write = Callable[["Threads", Array], None]


@dataclass
class Launch:
    """What a kernel is given, with the blocks of a grid that run at once."""

    grid: tuple[int, int, int]
    block_threads: int
    parameters: dict[str, bytes]
    memory: GlobalMemory
    blocks: Array
    """x, y, z of each block that runs."""


class Threads:
    """All threads of some blocks. ``mask`` tells who is active; None is everybody."""

    def __init__(self, entry: Entry, launch: Launch, shared: SharedMemory) -> None:
        self.entry, self.launch, self.shared = entry, launch, shared
        self.memory = launch.memory
        self.num_blocks, self.block_threads = len(launch.blocks), launch.block_threads
        self.count = self.num_blocks * self.block_threads
        self.warps_of_block = self.block_threads // WARP
        self.everyone = np.arange(self.count)
        self.lane = self.everyone % WARP
        self.warp = self.everyone // WARP
        self.block = self.everyone // self.block_threads
        self.grid_warp, self.now = self.warp, 1
        self.mask: Array | None = None
        self.active = self.everyone
        self._values: list[Array | None] = [None] * len(entry.registers)
        nothing = np.ones(self.count, bool)
        self._lacking: list[Array | None] = [nothing] * len(entry.registers)
        self.taint: Array | None = None
        """Threads in which the running instruction has read what nobody wrote."""
        self.specials = self._specials()

    def _specials(self) -> dict[str, Array]:
        axes = "xyz"
        found = {"%tid.x": self.everyone % self.block_threads}
        found |= {f"%ctaid.{axis}": self.launch.blocks[self.block, i]
                  for i, axis in enumerate(axes)}  # fmt: skip
        return {name: numbers.astype("u4") for name, numbers in found.items()}

    def activate(self, mask: Array) -> None:
        """Have those threads run."""
        self.mask = None if mask.all() else mask
        self.active = self.everyone if self.mask is None else np.flatnonzero(mask)

    def get(self, register: int) -> Array:
        """A register of all threads; what nobody wrote makes the instruction's result so, too."""
        lacking = self._lacking[register]
        if lacking is not None:
            self.taint = lacking if self.taint is None else self.taint | lacking
        value = self._values[register]
        if value is None:
            value = self.spread(0, UNSIGNED[self.entry.registers[register].bits])
        return value

    def put(self, register: int, value: Array) -> None:
        """Write a register of the active threads."""
        lacking = self.taint
        if self.mask is not None:
            before, old = self._lacking[register], self._values[register]
            value = value if old is None else np.where(self.mask, value, old)
            lacking = None if lacking is None else lacking & self.mask
            if before is not None:
                kept = before & ~self.mask
                lacking = kept if lacking is None else lacking | kept
            if lacking is not None and not lacking.any():
                lacking = None
        self._values[register], self._lacking[register] = value, lacking

    def must_be_sound(self) -> None:
        """A fault if what an active thread has just read was never written."""
        if self.taint is not None:
            check(self.taint[self.active], self.active, "uses what nobody wrote")
            self.taint = None

    def meet(self, mask: Array, *, is_block: bool) -> None:
        """A barrier of those threads, who are whole warps or whole blocks."""
        self.shared.meet(mask, self.now, is_block=is_block)
        self.memory.meet(self.grid_warp[mask], self.now, is_block=is_block)

    def spread(self, value: Any, dtype: np.dtype[Any]) -> Array:
        """One number for all threads."""
        result = np.empty(self.count, dtype)
        result.fill(value)
        return result


def reader(operand: Operand, dtype: str, *, is_wide: bool = False) -> Read:
    """What gives an operand's number in every thread, as a type of NumPy's.

    ``is_wide``: a register may be wider than the type, as where its low part is stored.
    """
    kind = np.dtype(dtype)
    if isinstance(operand, Register):
        index, bits = operand.index, 1 if kind.kind == "b" else 8 * kind.itemsize
        if bits == operand.bits:
            return lambda threads: threads.get(index).view(kind)
        if is_wide and operand.bits > bits:
            return lambda threads: threads.get(index).astype(UNSIGNED[bits]).view(kind)
        raise PtxFault(f"{operand.name} has {operand.bits} bits, not {bits}")
    if isinstance(operand, Immediate):
        bits = 8 * kind.itemsize
        number = np.array(operand.value % (1 << bits), UNSIGNED[bits]).view(kind)
        return lambda threads: number
    if isinstance(operand, Special):
        name = operand.name
        return lambda threads: threads.specials[name].view(kind)
    if isinstance(operand, Symbol):
        return _address_of(operand, kind)
    raise PtxFault(f"operand {operand}")


def _address_of(symbol: Symbol, kind: np.dtype[Any]) -> Read:
    def read(threads: Threads) -> Array:
        if symbol.name != threads.entry.shared:
            raise ThreadFault(f"{symbol.name} is not there", 0)
        return np.array(threads.shared.window, kind)

    return read


def writer(operand: Operand, dtype: str, *, is_wide: bool = False) -> Write:
    """What puts numbers of a type of NumPy's into a register.

    ``is_wide``: it may be wider than the type, as where it is loaded; zeros come before.
    """
    kind = np.dtype(dtype)
    bits = 1 if kind.kind == "b" else 8 * kind.itemsize
    if not isinstance(operand, Register):
        raise PtxFault(f"{operand} is no register")
    index, unsigned = operand.index, UNSIGNED[bits]
    if operand.bits != bits:
        if not is_wide or operand.bits < bits:
            raise PtxFault(f"{operand.name} has {operand.bits} bits, not {bits}")
        whole = UNSIGNED[operand.bits]
        return lambda threads, value: threads.put(index, value.view(unsigned).astype(whole))

    def write(threads: Threads, value: Array) -> None:
        if value.ndim == 0:
            value = threads.spread(value, kind)
        threads.put(index, value.view(unsigned))

    return write
