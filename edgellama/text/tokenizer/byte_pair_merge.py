"""Byte pair merging that follows a list of merges to the letter.

Libraries that merge by token rank join any two neighbours whose join is a token; trained
merge lists do not. Symbols are UTF-8 of GPT-2's printable stand-ins for bytes, so that
vocabulary and merges serve as the file holds them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from heapq import heapify, heappop, heappush
from typing import Protocol

from edgellama.quant.vocabulary.string_index import StringIndex


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

    @cached_property
    def _ranks(self) -> StringIndex:
        return StringIndex(self._load_merges())

    def merge(self, symbols: Sequence[bytes]) -> list[bytes]:
        """The symbols after all merges: lowest rank first, leftmost among equals."""
        parts: list[bytes] = list(symbols)
        following = [*range(1, len(parts)), -1]
        preceding = [*range(-1, len(parts) - 1)]
        queue = [
            (rank, i, parts[i], parts[i + 1])
            for i in range(len(parts) - 1)
            if (rank := self._rank(parts[i], parts[i + 1])) is not None
        ]
        heapify(queue)
        while queue:
            _, left, first, second = heappop(queue)
            right = following[left]
            if right < 0 or parts[left] != first or parts[right] != second:
                continue
            parts[left], parts[right] = first + second, b""
            after = following[left] = following[right]
            if after >= 0:
                preceding[after] = left
            for i, j in ((preceding[left], left), (left, after)):
                if i >= 0 and j >= 0 and (rank := self._rank(parts[i], parts[j])) is not None:
                    heappush(queue, (rank, i, parts[i], parts[j]))
        return [part for part in parts if part]

    def _rank(self, left: bytes, right: bytes) -> int | None:
        if left + right not in self._tokens:
            return None
        return self._ranks.last(left + b" " + right)
