"""Finds strings in a long list, such as a vocabulary or its merges.

A sorted array of hashes replaces a dict, which would take many times the memory. The callers know
what the strings mean.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence

import numpy as np

from edgellama.quant.gguf.strings import RawStrings, string_hash

HASH_SHIFT = 32
"""The upper half of a hash tells strings apart well enough: whatever is found is compared. Its
place stands in the lower half while hashes are sorted."""


class StringIndex:
    """Finds strings by their sorted hashes: 8 bytes each, where a dict takes 148."""

    def __init__(self, strings: Sequence[bytes]) -> None:
        raw = strings if isinstance(strings, RawStrings) else RawStrings.of(strings)
        marked = raw.hashes()
        marked >>= HASH_SHIFT
        marked <<= HASH_SHIFT
        marked |= np.arange(len(strings), dtype=np.uint64)
        marked.sort()  # faster than an order of hashes alone, and places of equal ones ascend
        self._strings = strings
        self._places = marked.astype(np.uint32).data
        marked >>= HASH_SHIFT
        self._hashes = marked.astype(np.uint32).data

    def places(self, string: bytes) -> Iterator[int]:
        """Where the string stands, the last place first."""
        wanted = string_hash(string) >> HASH_SHIFT
        index = end = bisect_right(self._hashes, wanted)
        while index > 0 and self._hashes[index - 1] == wanted:
            index -= 1
        for place in reversed(self._places[index:end]):
            if self._strings[place] == string:
                yield place

    def last(self, string: bytes) -> int | None:
        """The last place where it stands; None if it is not in the list."""
        return next(self.places(string), None)
