"""Reads a piece of a mapped file without touching the mapping.

A page that the file no longer has would end the process, and pages in use would add up over a whole
model. The tensors know what the bytes mean.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgellama.quant.errors import ModelFileError
from edgellama.quant.mapped_file import CAN_READ_AT, FileMapping


class MappedBytes:
    """Bytes that lie in one piece of a mapped file, or in memory; safe for several threads."""

    def __init__(self, owner: str, data: NDArray[np.uint8]) -> None:
        """``owner``: the tensor's name, for errors; ``data``: a view of all, one dimension."""
        self._owner = owner
        self._data = data
        self._mapping = _mapping_behind(data)
        self._start = 0
        if self._mapping is not None:
            self._start = data.ctypes.data - np.frombuffer(self._mapping, np.uint8).ctypes.data

    def read(self, first: int, last: int) -> NDArray[np.uint8]:
        """Bytes ``first`` to before ``last``, perhaps read-only; ModelFileError if gone."""
        if self._mapping is None or not CAN_READ_AT:
            return self._data[first:last]
        content = self._mapping.read_at(self._start + first, last - first)
        if len(content) < last - first:
            raise ModelFileError(
                f"tensor {self._owner}: its file was cut to {self._mapping.size()} bytes while it "
                f"was read; allowed: the {len(self._mapping)} bytes that it had"
            )
        return np.frombuffer(content, np.uint8)

    def is_same_piece(self, other: MappedBytes) -> bool:
        """Whether both are the very same bytes of one file."""
        return (
            self._mapping is not None
            and (self._mapping, self._start) == (other._mapping, other._start)
            and self._data.size == other._data.size
        )


def _mapping_behind(array: NDArray[np.uint8]) -> FileMapping | None:
    """The mapping that ``array`` is a view of; None for an array in memory."""
    owner: object = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    buffer = owner.obj if isinstance(owner, memoryview) else owner
    return buffer if isinstance(buffer, FileMapping) else None
