"""Launches kernels of the card in their CPU form, as a card would: blocks, warps, shared memory.

A test double of the card: its global memory is the process's own, a warp is 32 lanes of vectors,
and the warps of a block are threads that meet at barriers.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any

import numpy as np
from harness.card_compiler import compiled
from harness.kernels import argument_slots

from edgellama.cuda.layouts import WARP
from edgellama.cuda.signatures import CARD_KERNELS, CARD_SIGNATURES
from edgellama.kernels_cpu.compiling.code_loader import LoadedCode
from edgellama.kernels_cpu.compiling.elf_object import ElfObject
from edgellama.kernels_cpu.machine.cpu import Tier, available_tiers
from edgellama.kernels_cpu.threads.thread_team import ENTRY, yield_address

GUARD_BYTES = 256
GUARD = 0xA5
FASTEST = available_tiers()[0]


class WarpRunner:
    """All kernels of the card in the CPU form of one tier, loaded as they are first launched."""

    def __init__(self, tier: Tier = FASTEST) -> None:
        self.tier = tier
        self._code: list[LoadedCode] = []
        self._functions: dict[str, Any] = {}
        self._yield = yield_address()

    def preload(self, names: Iterable[str]) -> None:
        """Compile and load several kernels at once."""
        missing = [name for name in names if name not in self._functions]
        for name, content in compiled(self.tier.name, missing).items():
            code = LoadedCode([ElfObject.parse(content, name)])
            self._code.append(code)
            self._functions[name] = ENTRY(code.addresses[name])

    def launch(
        self, name: str, grid: tuple[int, int, int], slots: bytes, shared_bytes: int,
        seed: int = 0, at_once: int = 1,
    ) -> None:  # fmt: skip
        """Run all blocks; ``slots`` are the arguments, 8 bytes each, as for ``cuLaunchKernel``.

        Blocks come in an order that ``seed`` tells, so many ``at_once``. Shared memory is garbage
        before, and nothing may be written behind its end.
        """
        self.preload([name])
        arguments = np.frombuffer(bytearray(slots), np.uint8)
        blocks = list(product(*(range(count) for count in reversed(grid))))
        order = np.random.default_rng(seed).permutation(len(blocks))

        def run(number: int) -> None:
            self._run_block(name, arguments, blocks[number], shared_bytes)

        if at_once == 1:
            for number in order:
                run(number)
        else:
            with ThreadPoolExecutor(at_once) as pool:
                list(pool.map(run, order))

    def call(self, name: str, grid: tuple[int, ...], shared_bytes: int = 0, seed: int = 0,
             at_once: int = 1, **arguments: Any) -> None:  # fmt: skip
        """The same with arguments by their names; arrays stand for their addresses."""
        signature = CARD_SIGNATURES[CARD_KERNELS[name]]
        slots = argument_slots(signature.parameters, signature.float_parameters, arguments)
        self.launch(name, (*grid, 1, 1)[:3], slots, shared_bytes, seed, at_once)

    def _run_block(
        self, name: str, arguments: Any, block: tuple[int, ...], shared_bytes: int
    ) -> None:
        """All warps of a block at once; ctypes lets go of the GIL."""
        z, y, x = block
        function = self._functions[name]
        num_warps = CARD_SIGNATURES[CARD_KERNELS[name]].num_warps
        shared = np.full(shared_bytes + GUARD_BYTES + WARP, GUARD, np.uint8)
        start = -shared.ctypes.data % 16
        barrier = np.zeros(2, np.int64)
        places = (shared.ctypes.data + start, barrier.ctypes.data, self._yield)
        records = np.array(
            [(x, y, z, number, num_warps, *places) for number in range(num_warps)], np.int64
        )
        calls = [(arguments.ctypes.data, int(record.ctypes.data), 0) for record in records]
        threads = [threading.Thread(target=function, args=call) for call in calls[1:]]
        for thread in threads:
            thread.start()
        function(*calls[0])
        for thread in threads:
            thread.join()
        assert (shared[start + shared_bytes :] == GUARD).all(), f"{name}: shared memory"


@functools.cache
def warp_runner(tier: Tier = FASTEST) -> WarpRunner:
    """The one runner of a tier in this process."""
    return WarpRunner(tier)
