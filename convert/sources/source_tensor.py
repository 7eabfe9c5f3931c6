"""Tensors of a source, read a few rows at a time: mapped, joined from shards, in memory, permuted.

A tensor knows its bytes and its format. The readers know its file, and ``model`` knows what it
means.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from edgellama.convert.sources.mapped_bytes import MappedBytes
from edgellama.quant.errors import UnsupportedModelError
from edgellama.quant.formats import FORMATS_BY_NAME, Format

_Self = TypeVar("_Self", bound="SourceTensor")
_ARRAY_FORMATS = {np.dtype("<f4"): "F32", np.dtype("<f2"): "F16"}


class SourceTensor(ABC):
    """A tensor of a source: ``name``, ``shape`` in NumPy's order, and rows on demand.

    A row runs along the last axis, so a tensor of one dimension is one row. Tensors do not
    change, and every method may be called from several threads at once.
    """

    def __init__(self, name: str, shape: Sequence[int], tensor_format: Format) -> None:
        """Raise ModelFileError if a row is not whole blocks of ``tensor_format``."""
        self.name = name
        self.shape = tuple(shape)
        self._format = tensor_format
        self._row_bytes = tensor_format.row_bytes(self.num_columns)

    @property
    def format(self) -> Format:
        """How the rows are stored."""
        return self._format

    @property
    def num_columns(self) -> int:
        """Elements of a row."""
        return self.shape[-1] if self.shape else 1

    @property
    def num_rows(self) -> int:
        """All that the axes before the last hold together; 1 for a vector."""
        return math.prod(self.shape[:-1])

    @property
    def row_bytes(self) -> int:
        """Bytes of a row in ``format``."""
        return self._row_bytes

    @property
    def num_bytes(self) -> int:
        """Bytes of all rows."""
        return self.num_rows * self.row_bytes

    def rows(self, first: int, last: int) -> NDArray[np.uint8]:
        """The bytes of rows ``first`` to before ``last``, (last - first, row_bytes), C-contiguous.

        It may be read-only. IndexError for rows that are not there.
        """
        if not 0 <= first <= last <= self.num_rows:
            raise IndexError(f"rows {first} to {last} of {self.num_rows} of tensor {self.name}")
        return self._rows(first, last)

    @abstractmethod
    def _rows(self, first: int, last: int) -> NDArray[np.uint8]:
        """``rows`` for a range that has been checked."""

    def renamed(self: _Self, name: str) -> _Self:
        """The same tensor under another name."""
        other = copy.copy(self)
        other.name = name
        return other


class MappedTensor(SourceTensor):
    """A tensor whose bytes lie in one piece of a mapped file, or in memory."""

    def __init__(
        self, name: str, shape: Sequence[int], tensor_format: Format, data: NDArray[np.uint8]
    ) -> None:
        """``data``: a view of all its bytes, one dimension; ValueError for any other number."""
        super().__init__(name, shape, tensor_format)
        if data.shape != (self.num_bytes,) or data.dtype != np.uint8:
            raise ValueError(f"data of {name} is not {self.num_bytes} bytes")
        self._content = MappedBytes(name, data)

    def is_same_piece(self, other: SourceTensor) -> bool:
        """Whether both are the very same bytes of one file."""
        return isinstance(other, MappedTensor) and self._content.is_same_piece(other._content)

    def _rows(self, first: int, last: int) -> NDArray[np.uint8]:
        content = self._content.read(first * self.row_bytes, last * self.row_bytes)
        return content.reshape(last - first, self.row_bytes)


class DoubleTensor(SourceTensor):
    """A tensor of float64, given as F32: the nearest, infinite where that has none."""

    def __init__(self, name: str, shape: Sequence[int], data: NDArray[np.uint8]) -> None:
        """``data``: a view of all its bytes, one dimension."""
        super().__init__(name, shape, FORMATS_BY_NAME["F32"])
        self._content = MappedBytes(name, data)

    def _rows(self, first: int, last: int) -> NDArray[np.uint8]:
        content = self._content.read(2 * first * self.row_bytes, 2 * last * self.row_bytes)
        with np.errstate(over="ignore"):
            values = content.view("<f8").astype("<f4")
        return values.view(np.uint8).reshape(last - first, self.row_bytes)


class ArrayTensor(SourceTensor):
    """A small tensor that is held in memory, such as one that is computed."""

    def __init__(self, name: str, array: NDArray[np.float32] | NDArray[np.float16]) -> None:
        """ValueError for an array that is neither float32 nor float16."""
        if array.dtype not in _ARRAY_FORMATS:
            raise ValueError(f"{name} is an array of {array.dtype}")
        super().__init__(name, array.shape, FORMATS_BY_NAME[_ARRAY_FORMATS[array.dtype]])
        self._data = np.frombuffer(array.tobytes(), np.uint8).reshape(self.num_rows, self.row_bytes)

    def _rows(self, first: int, last: int) -> NDArray[np.uint8]:
        return self._data[first:last]


class JoinedTensor(SourceTensor):
    """The shards of one tensor, joined along axis 0 (rows) or axis 1 (columns)."""

    def __init__(self, name: str, parts: Sequence[SourceTensor], axis: int) -> None:
        """``parts``: in order, of one format and two dimensions; ValueError if they do not fit."""
        other_sizes = {part.shape[1 - axis] for part in parts if len(part.shape) == 2}
        formats = {part.format for part in parts}
        if axis not in (0, 1) or len(formats) != 1 or len(other_sizes) != 1:
            raise ValueError(f"shards of {name} do not join on axis {axis}")
        sizes = [part.shape[axis] for part in parts]
        (other_size,) = other_sizes
        shape = (sum(sizes), other_size) if axis == 0 else (other_size, sum(sizes))
        super().__init__(name, shape, formats.pop())
        self._parts = tuple(parts)
        self._axis = axis
        self._starts = np.cumsum([0, *sizes]).tolist()

    def _rows(self, first: int, last: int) -> NDArray[np.uint8]:
        if self._axis == 1:
            return np.concatenate([part.rows(first, last) for part in self._parts], axis=1)
        pieces = [
            part.rows(max(first - start, 0), min(last - start, part.num_rows))
            for part, start in zip(self._parts, self._starts, strict=False)
            if start < last and first < start + part.num_rows
        ]
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate([np.empty((0, self.row_bytes), np.uint8), *pieces])


class PermutedTensor(SourceTensor):
    """Rows of heads in half-split order, given in interleaved order.

    Per head, rows (2, head_size / 2) become (head_size / 2, 2): new row 2i + j is old row
    j * head_size / 2 + i. In a vector the elements take the place of rows. Where only the first
    ``rotated`` rows of a head are rotated, these alone are split, and the others stay.
    """

    def __init__(self, tensor: SourceTensor, num_heads: int, rotated: int | None = None) -> None:
        """ValueError unless rows (or elements of a vector) make ``num_heads`` even-sized heads."""
        super().__init__(tensor.name, tensor.shape, tensor.format)
        self._is_vector = len(tensor.shape) == 1
        num_items = tensor.num_columns if self._is_vector else tensor.num_rows
        if num_heads < 1 or num_items % (2 * num_heads):
            raise ValueError(f"{num_items} rows of {tensor.name} are not {num_heads} even heads")
        if self._is_vector and tensor.format.block_size != 1:
            raise ValueError(f"vector {tensor.name} is stored in blocks, as {tensor.format.name}")
        self._tensor = tensor
        self._head_size = num_items // num_heads
        self._rotated = rotated or self._head_size
        if self._rotated % 2 or self._rotated > self._head_size:
            raise ValueError(f"{self._rotated} of {self._head_size} rows of a head are rotated")

    def _rows(self, first: int, last: int) -> NDArray[np.uint8]:
        if self._is_vector:
            elements = self._tensor.rows(first, last).reshape(-1, self.format.block_bytes)
            heads = elements.reshape(-1, self._head_size, self.format.block_bytes)
            order = np.arange(self._head_size)
            order[: self._rotated] = order[: self._rotated].reshape(2, -1).T.reshape(-1)
            return np.ascontiguousarray(heads[:, order]).reshape(last - first, self.row_bytes)
        rows = np.empty((last - first, self.row_bytes), np.uint8)
        for start in range(first - first % self._head_size, last, self._head_size):
            low, high = max(first - start, 0), min(last - start, self._head_size)
            turned = min(high, self._rotated)
            for half in (0, 1) if low < turned else ():
                self._copy_half(start, half, low, turned, rows[start + low - first :])
            same = max(low, self._rotated)
            if same < high:
                rows[start + same - first : start + high - first] = self._tensor.rows(
                    start + same, start + high
                )
        return rows

    def _copy_half(
        self, start: int, half: int, low: int, high: int, rows: NDArray[np.uint8]
    ) -> None:
        """Fill new rows ``low`` to ``high`` of the head at ``start`` with what one half gives."""
        first, last = (low - half + 1) // 2, (high - half + 1) // 2
        source = start + half * (self._rotated // 2)
        new_rows = rows[2 * first + half - low : high - low : 2]
        new_rows[...] = self._tensor.rows(source + first, source + last)


class UnreadableTensor(SourceTensor):
    """A tensor that is there but cannot be a weight: its name and shape are known, no more.

    Buffers that no model needs may be of any kind, so only asking for its format or rows is
    refused, with UnsupportedModelError.
    """

    def __init__(self, name: str, shape: Sequence[int], refusal: str) -> None:
        """``refusal``: the error's text: file, tensor, what it is, what is allowed."""
        super().__init__(name, shape, FORMATS_BY_NAME["F32"])
        self._refusal = refusal

    @property
    def format(self) -> Format:
        """Raises UnsupportedModelError."""
        raise UnsupportedModelError(self._refusal)

    @property
    def row_bytes(self) -> int:
        """Raises UnsupportedModelError."""
        raise UnsupportedModelError(self._refusal)

    def _rows(self, first: int, last: int) -> NDArray[np.uint8]:
        raise UnsupportedModelError(self._refusal)


class ElementTensor(UnreadableTensor):
    """A tensor of numbers that are no weights by themselves, such as packed integers or FP8.

    ``element_type`` is safetensors' name of their type. ``convert.dequantize`` knows what
    they mean; as a weight it is refused like any unreadable tensor.
    """

    def __init__(
        self,
        name: str,
        shape: Sequence[int],
        element_type: str,
        data: NDArray[np.uint8],
        refusal: str,
    ) -> None:
        """``data``: a view of all its bytes, one dimension."""
        super().__init__(name, shape, refusal)
        self.element_type = element_type
        self._content = MappedBytes(name, data)
        self._bytes_a_row = data.size // max(1, self.num_rows)

    def raw_rows(self, first: int, last: int) -> NDArray[np.uint8]:
        """The bytes of rows ``first`` to before ``last``, (last - first, bytes of a row)."""
        content = self._content.read(first * self._bytes_a_row, last * self._bytes_a_row)
        return content.reshape(last - first, self._bytes_a_row)
