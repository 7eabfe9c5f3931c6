"""Arrays of strings in a GGUF file: found quickly, decoded when somebody asks.

A vocabulary has some 400,000 strings, each behind its length, so finding them is most of the work
of opening a file. The tokenizer knows what the strings mean.
"""

from __future__ import annotations

import operator
import struct
from array import array
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Protocol, overload

import numpy as np
from numpy.typing import NDArray

PREFIX_BYTES = 8
WINDOW_BYTES = 65536
# With fewer strings than these in an array or a window, the plain loop costs no more.
MIN_STRINGS_FOR_WINDOWS = 8192
MIN_STRINGS_PER_WINDOW = 512
HASHED_AT_ONCE = 8192
ENDS = "I"
"""The type of places in a header, which is never as long as 32 bits can tell."""
HASH_FACTORS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93)
"""Large odd numbers for the last 8 bytes of a string, the 8 before, the first 8, and its length."""


class StringArray(Sequence[str]):
    """An array of strings, decoded from UTF-8 one by one when asked for.

    Bytes that are not UTF-8 become surrogates (``errors="surrogateescape"``), so that
    encoding the same way gives them back.
    """

    def __init__(self, raw: bytes, ends: array[int]) -> None:
        """``raw``: strings, each after its 8-byte length; ``ends``: where in ``raw`` each ends."""
        self._raw = raw
        self._ends = ends

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self._decode(i) for i in range(*index.indices(len(self)))]
        return self._decode(range(len(self))[index])

    def __iter__(self) -> Iterator[str]:
        return (item.decode("utf-8", "surrogateescape") for item in self.in_place())

    def __repr__(self) -> str:
        return f"StringArray({len(self)} strings)"

    @property
    def raw(self) -> bytes:
        """All strings as a file holds them, each after its 8-byte length."""
        return self._raw

    def in_place(self) -> RawStrings:
        """Every string as it stands in the file, taken from there when asked for."""
        return RawStrings(self._raw, self._ends)

    def as_bytes(self) -> list[bytes]:
        """All of them at once."""
        return list(self.in_place())

    def _decode(self, index: int) -> str:
        return self.in_place()[index].decode("utf-8", "surrogateescape")


class RawStrings(Sequence[bytes]):
    """The bytes of the strings of a ``StringArray``."""

    def __init__(self, raw: bytes, ends: array[int]) -> None:
        self._raw = raw
        self._ends = ends

    @classmethod
    def of(cls, strings: Sequence[bytes]) -> RawStrings:
        """Strings of a list, as a file would hold them."""
        ends = array(ENDS, accumulate(PREFIX_BYTES + len(item) for item in strings))
        pieces = (len(item).to_bytes(PREFIX_BYTES, "little") + item for item in strings)
        return cls(b"".join(pieces), ends)

    def __len__(self) -> int:
        return len(self._ends)

    def lengths(self) -> NDArray[np.int64]:
        """The bytes of each string."""
        ends = np.frombuffer(self._ends, ENDS).astype(np.int64)
        lengths = ends - PREFIX_BYTES
        lengths[1:] -= ends[:-1]
        return lengths

    def hashes(self) -> NDArray[np.uint64]:
        """``string_hash`` of each, of some thousand at once, whose arrays fit the caches.

        The eight bytes of its length stand before each string, so that words which begin up to
        eight bytes before one can be read; what is not of the string is shifted out.
        """
        hashes = np.empty(len(self), np.uint64)
        if not self._ends:
            return hashes
        word_at = _words_at(self._raw, len(self._raw) - PREFIX_BYTES + 1)
        all_ends = np.frombuffer(self._ends, ENDS)
        for start in range(0, len(self), HASHED_AT_ONCE):
            ends = all_ends[start : start + HASHED_AT_ONCE].astype(np.int64)
            lengths = ends - PREFIX_BYTES
            lengths[1:] -= ends[:-1]
            lengths[0] -= all_ends[start - 1] if start else 0
            hashes[start : start + HASHED_AT_ONCE] = _hashes(word_at, ends, lengths)
        return hashes

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        start = PREFIX_BYTES + (self._ends[place - 1] if place else 0)
        return self._raw[start : self._ends[place]]

    def __iter__(self) -> Iterator[bytes]:
        raw, start = self._raw, PREFIX_BYTES
        for end in self._ends:
            yield raw[start:end]
            start = end + PREFIX_BYTES


def _words_at(data: bytes | NDArray[np.uint8], num_places: int) -> NDArray[np.uint64]:
    """The eight bytes from each of the first places on, as a number."""
    return np.ndarray((num_places,), "<u8", data, strides=(1,))


def _hashes(
    word_at: NDArray[np.uint64], ends: NDArray[np.int64], lengths: NDArray[np.int64]
) -> NDArray[np.uint64]:
    """The hashes of strings of ``lengths`` bytes that end at ``ends``."""
    last, before, first, length = (np.uint64(factor) for factor in HASH_FACTORS)
    words = word_at[ends - PREFIX_BYTES] >> _unused_bits(lengths)
    hashes = words * last + lengths.astype(np.uint64) * length
    long = np.flatnonzero(lengths > PREFIX_BYTES)
    words = word_at[ends[long] - 2 * PREFIX_BYTES]
    hashes[long] += (words >> _unused_bits(lengths[long] - PREFIX_BYTES)) * before
    long = long[lengths[long] > 2 * PREFIX_BYTES]
    hashes[long] += word_at[ends[long] - lengths[long]] * first
    return hashes


def _unused_bits(lengths: NDArray[np.int64]) -> NDArray[np.uint64]:
    """How many bits of a word are before strings of ``lengths`` bytes that end with it."""
    return (8 * (PREFIX_BYTES - np.clip(lengths, 0, PREFIX_BYTES))).astype(np.uint64)


def string_hash(string: bytes) -> int:
    """A number of 64 bits from both ends of a string and its length."""
    length, word = len(string), PREFIX_BYTES
    first = string[:word] if length > 2 * word else b""
    words = (string[-word:], string[-2 * word : -word], first)
    values = (*(int.from_bytes(piece, "little") for piece in words), length)
    products: Iterator[int] = map(operator.mul, values, HASH_FACTORS)
    return sum(products) & 0xFFFFFFFFFFFFFFFF


class Bytes(Protocol):
    """Bytes of which pieces can be had."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def __getitem__(self, piece: slice, /) -> bytes | memoryview:
        """The strings of a piece."""
        ...


def string_ends(content: Bytes, count: int) -> array[int]:
    """Where each of ``count`` length-prefixed strings ends, from the start of ``content``.

    Fewer than ``count`` if the next string would run past its end.
    """
    ends = array(ENDS)
    num_to_walk = MIN_STRINGS_PER_WINDOW
    while len(ends) < count:
        start = ends[-1] if ends else 0
        num_left = count - len(ends)
        if count >= MIN_STRINGS_FOR_WINDOWS and num_left > MIN_STRINGS_PER_WINDOW:
            window = np.frombuffer(content[start : start + WINDOW_BYTES], np.uint8)
            found = _leading_ends(window)[:num_left]
            if len(found) >= MIN_STRINGS_PER_WINDOW:
                ends.frombytes((found + start).astype(ENDS).tobytes())
                num_to_walk = MIN_STRINGS_PER_WINDOW
                continue
        num_walked = min(num_left, num_to_walk)
        if _walk(content, ends, start, num_walked) < num_walked:
            break
        # Strings that no window can prove must not cost a window each time.
        num_to_walk *= 2
    return ends


def _leading_ends(window: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Ends of the first strings of ``window``, as far as NumPy can prove them; perhaps none.

    Every place with a number below 256, seven bytes of which are zero, is taken for a length, and
    those count that form a chain from the first byte: each string ends where the next length
    starts.
    """
    num_places = len(window) - PREFIX_BYTES + 1
    if num_places < 1:
        return np.empty(0, np.int64)
    is_zero = window == 0
    two = is_zero[:-1] & is_zero[1:]
    four = two[:-2] & two[2:]
    starts = np.flatnonzero(four[1:-3] & four[4:])  # seven zeros behind a place
    if len(starts) == 0 or starts[0] != 0:
        return np.empty(0, np.int64)
    ends = starts + (window[starts].astype(np.int64) + PREFIX_BYTES)
    breaks = np.flatnonzero(ends[:-1] != starts[1:])
    return ends[: breaks[0] if len(breaks) else len(starts) - 1]


def _walk(content: Bytes, ends: array[int], start: int, count: int) -> int:
    """Append the ends of ``count`` strings from ``start``; how many there was room for."""
    unpack = struct.Struct("<Q").unpack_from
    room, num_walked = len(content), 0
    while num_walked < count and room - start >= PREFIX_BYTES:
        piece = content[start : start + WINDOW_BYTES]
        last, end = len(piece) - PREFIX_BYTES, 0
        while num_walked < count and end <= last:
            (length,) = unpack(piece, end)
            end += PREFIX_BYTES + length
            if start + end > room:
                return num_walked
            ends.append(start + end)
            num_walked += 1
        start += end
    return num_walked
