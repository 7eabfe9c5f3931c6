"""The card of the tests of kernels, with the kernels' PTX instead of their CPU form.

``PtxCache`` is a ``CardCache`` whose launches run on ``ptx_machine``; of all memory kernels see
what is theirs alone.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from harness.card_compiler import compiled
from harness.cards import Array, CardCache, Part
from ptx_machine import GlobalMemory, PtxMachine, Traffic

from doubles.warps import WarpRunner
from edgellama.cuda.layouts import WARP
from edgellama.cuda.signatures import CARD_KERNELS, CARD_SIGNATURES
from edgellama.kernels_cpu.layouts import ALL_KEYS

ALIGNMENT = 256


def ptx_of(name: str, tier: str) -> str:
    """A kernel as a tier of cards gets it."""
    return compiled(tier, [name])[name].decode("ascii")


@functools.lru_cache(maxsize=16)
def machine_of(name: str, tier: str, *, fuses: bool = False) -> PtxMachine:
    """A machine with that kernel."""
    return PtxMachine(ptx_of(name, tier), fuses=fuses)


class PtxRunner:
    """Launches as those of ``WarpRunner``, of PTX for one tier of cards."""

    def __init__(
        self, tier: str = "sm_80", *, fuses: bool = False, seed: int | None = None
    ) -> None:
        self.tier, self.fuses, self.seed = tier, fuses, seed
        self.traffic: Traffic | None = None
        self.pieces: list[Array] = []
        """What kernels find by addresses in memory."""

    def call(self, name: str, grid: tuple[int, ...], shared_bytes: int = 0, seed: int = 0,
             at_once: int = 1, **arguments: Any) -> None:  # fmt: skip
        """Run a kernel with arguments by their names; arrays stand for their addresses."""
        signature = CARD_SIGNATURES[CARD_KERNELS[name]]
        assert set(arguments) == set(signature.parameters), name
        slots, arrays = [], list(self.pieces)
        for parameter in signature.parameters:
            value = arguments[parameter]
            if isinstance(value, np.ndarray):
                arrays.append(value)
                value = value.ctypes.data
            slots.append(
                struct.pack("<f" if parameter in signature.float_parameters else "<q", value)
            )
        machine_of(name, self.tier, fuses=self.fuses).launch(
            name, (*grid, 1, 1)[:3], signature.num_warps * WARP, slots,
            GlobalMemory.of_arrays(*arrays), shared_bytes, self.seed, self.traffic,
        )  # fmt: skip


class PtxCache(CardCache):
    """Keys and values of sequences on a card that runs PTX."""

    def __init__(
        self, runner: PtxRunner, kinds: tuple[str, str], head_size: int, kv_heads: int, group: int,
        num_sequences: int, num_positions: int, window: int = ALL_KEYS,
    ) -> None:  # fmt: skip
        self.ptx = runner
        shape: Any = (kinds, head_size, kv_heads, group, num_sequences, num_positions, window)
        super().__init__(cast(WarpRunner, runner), *shape)
        self._align()

    def _align(self) -> None:
        """Pages begin at multiples of 256 bytes, as a driver gives memory."""
        room = np.full(self.memory.nbytes + ALIGNMENT, 0xFF, np.uint8)
        start = -room.ctypes.data % ALIGNMENT
        self.memory = room[start : start + self.memory.nbytes].reshape(self.memory.shape)
        addresses = self.memory.ctypes.data + self.pages * self.layout.page_bytes
        self.tables = addresses.astype("i8")

    def segments(
        self, parts: Sequence[Part], first_tasks: Sequence[int] | Array, split_keys: int = ALL_KEYS,
        partials: Sequence[Array] = (), tickets: Sequence[Array] = (),
    ) -> Array:  # fmt: skip
        """The same table; what it points to is the launch's."""
        layer = self.layout.layer_bytes
        pages = [page[layer:] for page in self.memory]
        self.ptx.pieces = [*pages, *self.tables, *partials, *tickets]
        return super().segments(parts, first_tasks, split_keys, partials, tickets)
