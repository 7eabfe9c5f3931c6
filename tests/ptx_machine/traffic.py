"""What accesses cost a card: rounds of shared memory, and pieces of global memory, by line.

Shared memory has 32 banks of 4 bytes and hands out 128 bytes a round: to a warp at once, to half of
it where lanes have 8 bytes, to a quarter where they have 16. Different words of a bank take rounds
of their own. Global memory comes in pieces of 32 bytes.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from ptx_machine.faults import Array

WARP, BANKS, WORD, PIECE_BYTES = 32, 32, 4, 32


@dataclass
class Cost:
    """What an instruction's accesses took, and the least that they could have."""

    taken: int = 0
    least: int = 0

    def add(self, taken: int, least: int) -> None:
        """One more time that it ran."""
        self.taken += taken
        self.least += least


class Traffic:
    """Costs by the line of the instruction; ``line`` is the one that runs."""

    def __init__(self) -> None:
        self.line = 0
        self.shared: defaultdict[int, Cost] = defaultdict(Cost)
        self.memory: defaultdict[int, Cost] = defaultdict(Cost)

    def note_shared(self, addresses: Array, threads: Array, num_bytes: int) -> None:
        """Addresses of some threads, each of so many bytes."""
        group = threads // (WARP * WORD // max(num_bytes, WORD))
        words = addresses[:, None] // WORD + np.arange(-(-num_bytes // WORD))
        groups = np.broadcast_to(group[:, None], words.shape)
        pairs = np.unique(np.stack([groups.ravel(), words.ravel()]), axis=1)
        places, counts = np.unique(pairs[0] * BANKS + pairs[1] % BANKS, return_counts=True)
        order = np.unique(places // BANKS, return_inverse=True)[1]
        most = np.zeros(order.max() + 1, int)
        np.maximum.at(most, order, counts)
        self.shared[self.line].add(int(most.sum()), len(most))

    def note_memory(self, addresses: Array, threads: Array, num_bytes: int) -> None:
        """The same of global memory; the least is what the bytes would fill."""
        warps = threads // WARP
        ends = np.stack([addresses, addresses + num_bytes - 1])
        pieces = np.unique(np.stack([np.tile(warps, 2), (ends // PIECE_BYTES).ravel()]), axis=1)
        units = np.unique(np.stack([warps, addresses // num_bytes]), axis=1)[0]
        least = -(-np.unique(units, return_counts=True)[1] * num_bytes // PIECE_BYTES)
        self.memory[self.line].add(pieces.shape[1], int(least.sum()))
