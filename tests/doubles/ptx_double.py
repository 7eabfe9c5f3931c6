"""A graphics card for the whole engine: the driver's double, which runs the PTX that it is given.

No card is behind it. What it computes is what the text says that a driver would compile; kernels
see the memory that the driver gave, to the byte.
"""

from __future__ import annotations

import ctypes
from typing import Any

from ptx_machine import GlobalMemory, PtxMachine

from doubles.fake_cuda import FakeCard, FakeCuda
from doubles.fake_modules import Launch

SLOT_BYTES = 8


class PtxDouble(FakeCuda):
    """The driver's double whose kernels are the modules' own; arguments as for ``FakeCuda``."""

    def __init__(self, *cards: FakeCard, **options: Any) -> None:
        self.machines: dict[str, PtxMachine] = {}
        """By the names of their kernels."""
        super().__init__(*cards, run=self._compute, **options)

    def _cuModuleLoadDataEx(self, module: Any, image: int, *options: Any) -> int:
        code = super()._cuModuleLoadDataEx(module, image, *options)
        if not code:
            machine = PtxMachine(ctypes.string_at(image).decode("ascii"))
            self.machines |= dict.fromkeys(machine.entries, machine)
        return code

    def _compute(self, launch: Launch) -> None:
        slots = [
            launch.slots[at : at + SLOT_BYTES] for at in range(0, len(launch.slots), SLOT_BYTES)
        ]
        pieces = (*self.device_memory.items(), *self.host_memory.items())
        memory = GlobalMemory((address, len(part)) for address, part in pieces)
        self.machines[launch.name].launch(
            launch.name, launch.grid, launch.block_threads, slots, memory, launch.shared_bytes
        )
