"""An index of earlier places where the last tokens of a text occurred; it grows with the text.

A few hash tables of fixed size, one for each length of a run, hold the latest place of each run. A
place that is found is compared with the text itself, so a clash of hashes loses a find but never
gives a wrong one.
"""

from __future__ import annotations

from array import array
from collections import deque
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
    """Places of runs of tokens in one text, given as the same list each time.

    The weights of a step drive all else out of the caches, so a token must cost few lines here:
    the hash of a run is made of those of its halves, which were made before.
    """

    def __init__(self, num_tokens: int) -> None:
        """``num_tokens``: about how long the text becomes."""
        bits = min(max(num_tokens.bit_length(), FEWEST_BITS), MOST_BITS)
        self._shift = 64 - bits
        self._tables = [array("i", bytes(4 << bits)) for _ in LENGTHS]
        self._length = 0
        self._slots = (0,) * len(LENGTHS)
        # Hashes of runs of 2, 4 and 8 tokens at the last ends, the first as far back as they reach.
        self._twos, self._fours, self._eights = (
            deque([0] * (size + 1), size + 1) for size in LENGTHS[:-1]
        )

    def find(self, tokens: Sequence[int], longer_than: int = 0) -> tuple[int, int]:
        """The place behind an earlier run that equals the text's last tokens, and its length.

        The longest run counts, and of those the latest; (0, 0) for none of more than
        ``longer_than`` tokens. The run may be longer than it is said to be.
        """
        length = len(tokens)
        if length != self._length:
            self._follow(tokens)
        slots, tables = self._slots, self._tables
        if not tables[0][slots[0]]:
            return 0, 0
        for number in reversed(range(len(LENGTHS))):
            size = LENGTHS[number]
            if size <= longer_than:
                break
            place = tables[number][slots[number]]
            # Where the text was cut off since, a place may be one of its earlier state.
            if size <= place < length and tokens[place - size : place] == tokens[-size:]:
                return place, size
        return 0, 0

    def _follow(self, tokens: Sequence[int]) -> None:
        """Enter all runs that another token follows, and hash those at the end."""
        start, length = self._length, len(tokens)
        self._length = length
        if 0 < start < length < start + BULK:
            for end in range(start + 1, length + 1):
                # Now it is known which token follows the runs at the last end.
                for table, slot in zip(self._tables, self._slots, strict=True):
                    table[slot] = end - 1
                self._roll(tokens, end)
            return
        if length > start:
            self._enter_many(tokens, start)
        for end in range(max(2, length - LENGTHS[-1] + 2), length + 1):
            self._roll(tokens, end)

    def _roll(self, tokens: Sequence[int], end: int) -> None:
        """The hashes of the runs that end before ``end``, one token behind the last ones."""
        if end < 2:
            return
        twos, fours, eights, shift = self._twos, self._fours, self._eights, self._shift
        two = (tokens[end - 2] * JOINS[0] + tokens[end - 1]) & MASK
        twos.append(two)
        four = (twos[0] * JOINS[1] + two) & MASK
        fours.append(four)
        eight = (fours[0] * JOINS[2] + four) & MASK
        eights.append(eight)
        sixteen = (eights[0] * JOINS[3] + eight) & MASK
        self._slots = (
            ((two * SPREAD) & MASK) >> shift,
            ((four * SPREAD) & MASK) >> shift,
            ((eight * SPREAD) & MASK) >> shift,
            ((sixteen * SPREAD) & MASK) >> shift,
        )

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
