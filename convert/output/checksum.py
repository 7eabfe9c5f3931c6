"""Checksums of tensors, which show whether a source or a written file has changed.

They guard against accidents, not against forgery, so they can run at the speed of memory: blake2b
alone (0.8 GB/s) would take longer than writing a tensor as Q8_0 does. Each piece of 64 KB is
multiplied word by word with fixed odd numbers and summed modulo 2**64. The sum shows every change
of one word, and misses about one in 2**64 of all others. Then blake2b runs over the sums.
"""

from __future__ import annotations

from functools import cache
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

PIECE_WORDS = 8192
WORD_BYTES = 8
DIGEST_BYTES = 16
_SEED = 0x65646765


@cache
def _weights() -> NDArray[np.uint64]:
    """uint64 [PIECE_WORDS], odd; the generator's raw output is the same in every NumPy."""
    weights: NDArray[np.uint64] = np.random.PCG64(_SEED).random_raw(PIECE_WORDS) | np.uint64(1)
    weights.setflags(write=False)
    return weights


def chunk_checksum(rows: NDArray[np.uint8]) -> bytes:
    """Checksum of the bytes of ``rows``, uint8 C-contiguous; DIGEST_BYTES long."""
    octets = rows.reshape(-1)
    num_words = octets.size // WORD_BYTES
    num_pieces = num_words // PIECE_WORDS
    words = octets[: num_words * WORD_BYTES].view(np.uint64)
    weights, piece_end = _weights(), num_pieces * PIECE_WORDS
    # einsum neither copies nor holds the interpreter's lock.
    sums = np.einsum("pw,w->p", words[:piece_end].reshape(-1, PIECE_WORDS), weights)
    rest = np.einsum("w,w->", words[piece_end:], weights[: num_words - piece_end])
    digest = blake2b(sums.tobytes(), digest_size=DIGEST_BYTES)
    digest.update(rest.tobytes())
    digest.update(octets[num_words * WORD_BYTES :].tobytes())
    digest.update(octets.size.to_bytes(WORD_BYTES, "little"))
    return digest.digest()


class TensorChecksum:
    """The checksum of a tensor from those of its chunks, in order."""

    def __init__(self) -> None:
        self._digest = blake2b(digest_size=DIGEST_BYTES)

    def add(self, chunk: bytes) -> None:
        """The next chunk's checksum."""
        self._digest.update(chunk)

    def hexdigest(self) -> str:
        """The checksum of all chunks so far."""
        return self._digest.hexdigest()
