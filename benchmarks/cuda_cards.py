"""Graphics cards as their makers describe them: how fast they compute, and how fast they read.

Nothing here is measured. What follows of it for attention is left to ``cuda_prediction`` and
``cuda_loops``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """Multiprocessors, lanes that multiply in each at once, clock; its memory's rate and size."""

    name: str
    multiprocessors: int
    lanes: int
    clock_hz: float
    memory_bytes_per_s: float
    memory_bytes: float

    @property
    def instructions_per_byte(self) -> float:
        """Instructions of lanes in the time in which the memory gives a byte."""
        return self.multiprocessors * self.lanes * self.clock_hz / self.memory_bytes_per_s


GTX_1660 = Card("GTX 1660", 22, 64, 1.785e9, 192e9, 6e9)
RTX_4060_LAPTOP = Card("RTX 4060 Laptop", 24, 128, 1.5e9, 256e9, 8e9)
"""The clock is a low one, since makers of laptops choose it."""
RTX_3060 = Card("RTX 3060", 28, 128, 1.78e9, 360e9, 12e9)
TESLA_T4 = Card("Tesla T4", 40, 64, 1.59e9, 320e9, 16e9)
A100 = Card("A100", 108, 64, 1.41e9, 1555e9, 40e9)
H100_SXM = Card("H100 SXM", 132, 128, 1.75e9, 3350e9, 80e9)
