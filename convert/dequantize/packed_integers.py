"""Small unsigned integers that lie in 32-bit words, lowest bits first, without gaps.

Words need not hold whole numbers: those of three bits cross from one to the next.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BITS = (2, 3, 4, 8)
WORD_BITS = 32


def num_words(num_integers: int, bits: int) -> int:
    """Words that hold as many integers."""
    return -(-num_integers * bits // WORD_BITS)


def unpack_rows(words: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """The integers of each row: (rows, words) of 32 bits become (rows, integers)."""
    packed = np.ascontiguousarray(words).view(np.uint32)
    num_rows, count = packed.shape
    mask = np.uint32((1 << bits) - 1)
    if WORD_BITS % bits == 0:
        shifts = np.arange(0, WORD_BITS, bits, dtype=np.uint32)
        integers = (packed[:, :, None] >> shifts) & mask
        return integers.astype(np.uint8).reshape(num_rows, count * len(shifts))
    starts = np.arange(count * WORD_BITS // bits) * bits
    index = starts // WORD_BITS
    following = np.minimum(index + 1, count - 1)
    pairs = packed[:, index].astype(np.uint64) | (
        packed[:, following].astype(np.uint64) << np.uint64(WORD_BITS)
    )
    return ((pairs >> (starts % WORD_BITS).astype(np.uint64)) & np.uint64(mask)).astype(np.uint8)
