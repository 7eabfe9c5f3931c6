"""Where the last tokens of a text have stood before: an index that grows with it.

A few hash tables of fixed size, one for each length of a run, hold the latest place of each run.
What is found is compared with the text itself, so a clash costs a find and never gives a false one.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

LENGTHS = (2, 4, 8, 16)
"""Of runs; each hash is made of two of the length before."""
FEWEST_BITS, MOST_BITS = 10, 17
"""Of a table's number of places: 4 bytes each, so at most 2 MB for a text."""
MASK = (1 << 64) - 1
JOINS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xFF51AFD7ED558CCD)
SPREAD = 0xD6E8FEB86659FD93
"""Odd numbers with bits all over; one for each length, or runs in another order would clash."""
BULK = 64
"""From so many new tokens on they are entered together."""
Words = npt.NDArray[np.uint64]


class NGramIndex:
    """Places of runs of tokens in one text, given as the same list each time."""

    def __init__(self, num_tokens: int) -> None:
        """``num_tokens``: about how long the text becomes."""
        bits = min(max(num_tokens.bit_length(), FEWEST_BITS), MOST_BITS)
        self._shift = 64 - bits
        self._tables = [array("i", bytes(4 << bits)) for _ in LENGTHS]
        self._num_entered = 0
        self._last: tuple[int, list[int]] = (0, [])

    def find(self, tokens: Sequence[int], longer_than: int = 0) -> tuple[int, int]:
        """The place behind an earlier run that equals the text's last tokens, and its length.

        The longest run counts, and of those the latest; (0, 0) for none of more than
        ``longer_than`` tokens. The run may be longer than it is said to be.
        """
        length = len(tokens)
        self._enter(tokens)
        slots = self._slots(tokens)
        self._last = (length, slots)
        for number in reversed(range(len(slots))):
            size = LENGTHS[number]
            if size <= longer_than:
                break
            place = self._tables[number][slots[number]]
            # Places are of an earlier state of the text, where that was cut off since.
            if size <= place < length and tokens[place - size : place] == tokens[-size:]:
                return place, size
        return 0, 0

    def _enter(self, tokens: Sequence[int]) -> None:
        """Enter all runs that another token follows."""
        end = len(tokens)
        start = min(self._num_entered, end)
        self._num_entered = end
        if self._last[0] == start and end - start == 1:
            for table, slot in zip(self._tables, self._last[1], strict=False):
                table[slot] = start
        elif end - start < BULK:
            for place in range(max(start, 1), end):
                slots = self._slots(tokens[max(0, place - LENGTHS[-1]) : place])
                for table, slot in zip(self._tables, slots, strict=False):
                    table[slot] = place
        else:
            self._enter_many(tokens, start)

    def _slots(self, tokens: Sequence[int]) -> list[int]:
        """Of the runs of all lengths at the end, as far as there are so many tokens."""
        hashes = list(tokens[-LENGTHS[-1] :])
        slots: list[int] = []
        for join in JOINS:
            if len(hashes) < 2:
                break
            pairs = zip(hashes[len(hashes) % 2 :: 2], hashes[1 + len(hashes) % 2 :: 2], strict=True)
            hashes = [(first * join + second) & MASK for first, second in pairs]
            slots.append(((hashes[-1] * SPREAD) & MASK) >> self._shift)
        return slots

    def _enter_many(self, tokens: Sequence[int], start: int) -> None:
        """The same for a whole prompt."""
        first = max(0, start - LENGTHS[-1])
        hashes: Words = np.array(tokens[first:-1], np.uint64)
        for table, size, join in zip(self._tables, LENGTHS, JOINS, strict=True):
            half = size // 2
            if len(hashes) <= half:
                break
            hashes = hashes[:-half] * np.uint64(join) + hashes[half:]
            slots = (hashes * np.uint64(SPREAD)) >> np.uint64(self._shift)
            places = np.arange(first + size, first + size + len(hashes), dtype=np.int32)
            np.frombuffer(table, np.int32)[slots] = places
