"""Small unsigned integers in 32-bit words, lowest bits first.

Without gaps, a number may lie in two words, as those of three bits do. With gaps, the bits behind
the last whole number of a word are unused.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BITS = (2, 3, 4, 8)
BYTE_BITS, WORD_BITS = 8, 32


def num_words(num_integers: int, bits: int, *, has_gaps: bool = False) -> int:
    """Words that hold as many integers."""
    if has_gaps:
        return -(-num_integers // (WORD_BITS // bits))
    return -(-num_integers * bits // WORD_BITS)


def unpack_rows(words: NDArray[Any], bits: int, *, has_gaps: bool = False) -> NDArray[np.uint8]:
    """The integers of each row: (rows, words) of 32 bits become (rows, integers)."""
    packed = np.ascontiguousarray(words, np.dtype("<i4")).view("<u4")
    num_rows, count = packed.shape
    mask = (1 << bits) - 1
    if has_gaps:
        shifts = np.arange(WORD_BITS // bits, dtype=np.uint32) * np.uint32(bits)
        spread: NDArray[np.uint32] = (packed[:, :, None] >> shifts) & np.uint32(mask)
        return spread.reshape(num_rows, count * len(shifts)).astype(np.uint8)
    if BYTE_BITS % bits == 0:
        octets, in_octet = packed.view(np.uint8), BYTE_BITS // bits
        integers = np.empty((num_rows, octets.shape[1] * in_octet), np.uint8)
        for place in range(in_octet):
            integers[:, place::in_octet] = (octets >> (bits * place)) & mask
        return integers
    starts = np.arange(count * WORD_BITS // bits) * bits
    index = starts // WORD_BITS
    following = np.minimum(index + 1, count - 1)
    pairs = packed[:, index].astype(np.uint64) | (
        packed[:, following].astype(np.uint64) << np.uint64(WORD_BITS)
    )
    return ((pairs >> (starts % WORD_BITS).astype(np.uint64)) & np.uint64(mask)).astype(np.uint8)
