"""Byte pair merging that follows a list of merges literally.

Libraries that merge by token rank join any two neighbours whose join is a token, while trained
lists of merges do not. Symbols are UTF-8 of GPT-2's printable stand-ins for bytes, so that the
vocabulary and the merges are used as the file has them.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from functools import cached_property
from heapq import heapify, heappop, heappush
from itertools import pairwise
from typing import Protocol

from edgellama.quant.vocabulary.string_index import StringIndex

NO_RANK = -1
PLACE_BITS = 32
LAST_PLACE = (1 << PLACE_BITS) - 1
MAX_REMEMBERED_PAIRS = 1 << 15
MAX_SYMBOLS_AT_ONCE = 1 << 14
"""Of a longer word the merges are found window by window: each symbol takes 75 bytes meanwhile."""
MARGIN = 32
"""One part in so many of a window's result is left: what its end cut may be merged otherwise."""


def byte_symbols() -> tuple[bytes, ...]:
    """GPT-2's printable stand-in for each byte, as UTF-8, indexed by the byte."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    symbols, shifted = [], 0x100
    for byte in range(256):
        if byte in printable:
            symbols.append(chr(byte).encode())
        else:
            symbols.append(chr(shifted).encode())
            shifted += 1
    return tuple(symbols)


class TokenTexts(Protocol):
    """Tells which texts are tokens, such as a dict by texts."""

    def __contains__(self, text: bytes, /) -> bool:
        """Whether there is such a token."""
        ...


class BytePairMerger:
    """Joins neighbouring symbols in the order of a list of merges."""

    def __init__(self, tokens: TokenTexts, load_merges: Callable[[], Sequence[bytes]]) -> None:
        """``load_merges`` gives the merges, each ``b"left right"``, first merge first.

        It is called once, when the first word needs merging. Merges whose join is no token
        are passed over.
        """
        self._tokens = tokens
        self._load_merges = load_merges
        self._remembered: dict[tuple[bytes, bytes], tuple[int, bytes]] = {}

    @cached_property
    def _ranks(self) -> StringIndex:
        return StringIndex(self._load_merges())

    def merge(self, symbols: Sequence[bytes]) -> list[bytes]:
        """The symbols after all merges: lowest rank first, leftmost among equals.

        The time grows with the number of symbols, times its logarithm at most.
        """
        return self._merged(symbols)[0]

    def merge_giant(
        self, data: bytes, table: Sequence[bytes], check: Callable[[], None] = lambda: None
    ) -> list[bytes]:
        """``merge`` of the symbols that ``table`` has for bytes, in the memory of some thousands.

        ``check`` is called before each window; what it raises ends all.

        It is exact: where ranks are merged in their order, what becomes of a symbol before a rank's
        turn depends on its own part alone, as long as nothing was merged across the part's edges.
        So two parts that stay apart when they are merged together stay apart in any text, and parts
        of which all neighbours stay apart are the text's. Neighbours in a window's result do; where
        two windows meet it is tried. If they do not stay apart, both are merged anew in wider ones.
        """
        parts: list[bytes] = []
        begun: list[tuple[int, int]] = []
        start, width = 0, MAX_SYMBOLS_AT_ONCE
        while start < len(data):
            check()
            end = start + width
            found, is_ordered = self._merged([table[byte] for byte in data[start:end]])
            is_whole = start == 0 and end >= len(data)
            kept = len(found) if end >= len(data) else len(found) * (MARGIN - 1) // MARGIN
            fits = is_ordered and kept and (not parts or self._stay_apart(parts[-1], found[0]))
            if is_whole or fits:
                begun.append((len(parts), start))
                start = end - sum(len(part.decode()) for part in found[kept:])
                parts += found[:kept]
            else:
                num_parts, start = begun.pop() if begun and is_ordered else (0, 0)
                width = 2 * width if is_ordered else len(data)
                del parts[num_parts:]
        return parts

    def _stay_apart(self, left: bytes, right: bytes) -> bool:
        symbols = [symbol.encode() for symbol in (left + right).decode()]
        return self._merged(symbols)[0] == [left, right]

    def _merged(self, symbols: Sequence[bytes]) -> tuple[list[bytes], bool]:
        """The symbols after all merges, and whether those came in the order of their ranks."""
        parts = list(symbols)
        end, join = len(parts), self._join
        following, preceding = array("i", range(1, end + 1)), array("i", range(-1, end - 1))
        # The rank of the pair that begins at each place tells which entries of the queue hold.
        ranks = array("i", [join(*pair)[0] for pair in pairwise(parts)])
        queue = [rank << PLACE_BITS | i for i, rank in enumerate(ranks) if rank != NO_RANK]
        ranks.append(NO_RANK)
        heapify(queue)
        highest, is_ordered = 0, True
        while queue:
            entry = heappop(queue)
            left = entry & LAST_PLACE
            if ranks[left] != entry >> PLACE_BITS:
                continue
            if entry < highest:
                is_ordered = False  # A merge made a pair that comes before it in the list.
            highest = entry
            right = following[left]
            parts[left], parts[right] = join(parts[left], parts[right])[1], b""
            ranks[left] = ranks[right] = NO_RANK
            after = following[left] = following[right]
            if after < end:
                preceding[after] = left
                rank = ranks[left] = join(parts[left], parts[after])[0]
                if rank != NO_RANK:
                    heappush(queue, rank << PLACE_BITS | left)
            before = preceding[left]
            if before >= 0:
                rank = ranks[before] = join(parts[before], parts[left])[0]
                if rank != NO_RANK:
                    heappush(queue, rank << PLACE_BITS | before)
        return [part for part in parts if part], is_ordered

    def _join(self, left: bytes, right: bytes) -> tuple[int, bytes]:
        """The rank of a merge, and what it makes; NO_RANK where there is no such merge."""
        found = self._remembered.get((left, right))
        if found is None:
            joined, rank = left + right, None
            if joined in self._tokens:
                rank = self._ranks.last(left + b" " + right)
            found = (NO_RANK, b"") if rank is None else (rank, joined)
            if len(self._remembered) >= MAX_REMEMBERED_PAIRS:
                self._remembered = {}
            self._remembered[left, right] = found
        return found
