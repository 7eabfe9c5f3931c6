"""Matrices of packed integers with a scale and a zero point for each group of columns, as F32.

They are GPTQ's, AWQ's and compressed-tensors' packed format. A weight is (integer - zero point) x
scale. GPTQ and AWQ store the matrix transposed; AWQ interleaves the eight integers of a word.
GPTQ's first version stores zero points less one.
Sources: auto_gptq's qlinear_cuda_old and unpack_awq, AutoAWQ's gemv, compressed_tensors'
unpack_from_int32.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgellama.convert.dequantize.column_reader import ColumnReader
from edgellama.convert.dequantize.elements import Floats, as_floats, element_type, float_rows, rows
from edgellama.convert.dequantize.packed_integers import WORD_BITS, num_words, unpack_rows
from edgellama.convert.sources.source_tensor import SourceTensor
from edgellama.quant.errors import ModelFileError
from edgellama.quant.formats import FORMATS_BY_NAME

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight columns each four bits of a word belong to, lowest first."""
SIGNED = "I8"
"""Safetensors' name of zero points that are not packed."""
UNSET_GROUP = -1
"""What compressed-tensors stores where columns are in order."""
_ALIGNED = 32
"""As many integers of any number of bits fill whole words."""


@dataclass(frozen=True)
class Parts:
    """The tensors of one quantized matrix. ``zeros`` None is the middle of the integers' range;
    ``groups`` the group of each column, None for runs of ``group_size``. ``has_gaps``: words hold
    whole integers alone.
    """

    integers: SourceTensor
    scales: SourceTensor
    zeros: SourceTensor | None
    groups: SourceTensor | None
    bits: int
    group_size: int
    has_gaps: bool = False


class GroupedTensor(SourceTensor):
    """The matrix (rows, columns) whose parts are given; how they lie, a subclass knows."""

    def __init__(self, name: str, shape: tuple[int, int], parts: Parts) -> None:
        super().__init__(name, shape, FORMATS_BY_NAME["F32"])
        self._parts = parts

    def _rows(self, first: int, last: int) -> NDArray[np.uint8]:
        zeros, scales = self._zeros(first, last), self._scales(first, last)
        values = self._integers(first, last).astype(np.float32, order="C")
        groups, size = self._groups(), self._parts.group_size
        if groups is not None:
            values -= zeros[:, groups]
            values *= scales[:, groups]
            return values.view(np.uint8)
        for group in range(self._num_groups):
            columns = values[:, group * size : (group + 1) * size]
            columns -= zeros[:, group : group + 1]
            columns *= scales[:, group : group + 1]
        return values.view(np.uint8)

    @abstractmethod
    def _integers(self, first: int, last: int) -> NDArray[np.uint8]:
        """The integers of rows ``first`` to before ``last``, (last - first, columns)."""

    @abstractmethod
    def _zeros(self, first: int, last: int) -> Floats:
        """Zero points, (last - first, groups)."""

    @abstractmethod
    def _scales(self, first: int, last: int) -> Floats:
        """Scales, (last - first, groups)."""

    @property
    def _num_groups(self) -> int:
        return self._parts.scales.shape[0]

    def _groups(self) -> NDArray[np.int64] | None:
        """The group of each column, None where runs of columns make one; ModelFileError for one
        that has no scale.
        """
        if self._parts.groups is None:
            return None
        groups: NDArray[np.int64] = rows(self._parts.groups, 0, 1)[0].astype(np.int64)
        in_order = np.arange(self.num_columns) // self._parts.group_size
        if (groups == UNSET_GROUP).all() or np.array_equal(groups, in_order):
            return None
        wrong = (groups < 0) | (groups >= self._num_groups)
        if wrong.any():
            raise ModelFileError(
                f"tensor {self._parts.groups.name} holds group {groups[wrong.argmax()]}; "
                f"allowed: 0 to {self._num_groups - 1}"
            )
        return groups


class _TransposedTensor(GroupedTensor):
    """Parts whose columns are the matrix's rows."""

    def __init__(
        self, name: str, shape: tuple[int, int], parts: Parts, reader: ColumnReader
    ) -> None:
        super().__init__(name, shape, parts)
        self._reader = reader

    def _scales(self, first: int, last: int) -> Floats:
        scales = self._parts.scales
        return as_floats(self._reader.columns(scales, first, last), element_type(scales)).T

    def _packed_columns(self, tensor: SourceTensor, first: int, last: int) -> NDArray[np.uint8]:
        """Integers of columns of which several lie in a word: (columns, rows of the tensor)."""
        bits, start = self._parts.bits, first - first % _ALIGNED
        end = min(num_words(last + (-last % _ALIGNED), bits), tensor.num_columns)
        words = self._reader.columns(tensor, start * bits // WORD_BITS, end)
        return self._unpack(words)[first - start : last - start]

    def _unpack(self, words: NDArray[np.int32]) -> NDArray[np.uint8]:
        """Integers of all columns that words hold: (columns, rows of words)."""
        return unpack_rows(words, self._parts.bits).T


class GPTQTensor(_TransposedTensor):
    """GPTQ: columns share words; ``zeros_less_one`` is the first version's way."""

    def __init__(
        self,
        name: str,
        shape: tuple[int, int],
        parts: Parts,
        reader: ColumnReader,
        *,
        zeros_less_one: bool,
    ) -> None:
        super().__init__(name, shape, parts, reader)
        self._zeros_less_one = zeros_less_one

    def _integers(self, first: int, last: int) -> NDArray[np.uint8]:
        words = self._reader.columns(self._parts.integers, first, last)
        return unpack_rows(words.T, self._parts.bits)[:, : self.num_columns]

    def _zeros(self, first: int, last: int) -> Floats:
        assert self._parts.zeros is not None
        zeros = self._packed_columns(self._parts.zeros, first, last)
        if self._zeros_less_one:
            zeros = (zeros + np.uint8(1)) & np.uint8((1 << self._parts.bits) - 1)
        return zeros.astype(np.float32)


class AWQTensor(_TransposedTensor):
    """AWQ's usual layout (GEMM): rows share words, in an order of their own."""

    def _integers(self, first: int, last: int) -> NDArray[np.uint8]:
        return self._packed_columns(self._parts.integers, first, last)

    def _zeros(self, first: int, last: int) -> Floats:
        assert self._parts.zeros is not None
        return self._packed_columns(self._parts.zeros, first, last).astype(np.float32)

    def _unpack(self, words: NDArray[np.int32]) -> NDArray[np.uint8]:
        packed, num = np.ascontiguousarray(words.T), len(AWQ_ORDER)
        integers = np.empty((len(packed) * num, len(words)), np.uint8)
        for place, column in enumerate(AWQ_ORDER):
            integers[column::num] = (packed >> (self._parts.bits * place)) & 15
        return integers


class AWQRowsTensor(GroupedTensor):
    """AWQ for its GEMV kernels: rows as they are, zero points and scales filled up to words."""

    @property
    def _num_groups(self) -> int:
        return -(-self.num_columns // self._parts.group_size)

    def _integers(self, first: int, last: int) -> NDArray[np.uint8]:
        return unpack_rows(rows(self._parts.integers, first, last), self._parts.bits)

    def _zeros(self, first: int, last: int) -> Floats:
        assert self._parts.zeros is not None
        integers = unpack_rows(rows(self._parts.zeros, first, last), self._parts.bits)
        return integers.astype(np.float32)

    def _scales(self, first: int, last: int) -> Floats:
        return float_rows(self._parts.scales, first, last)


class PackedTensor(GroupedTensor):
    """compressed-tensors' packed format: columns share words; zero points pack along rows.

    Its first versions store zero points as signed integers of 8 bits.
    """

    @property
    def _num_groups(self) -> int:
        return self._parts.scales.shape[1]

    def _integers(self, first: int, last: int) -> NDArray[np.uint8]:
        return self._unpacked(rows(self._parts.integers, first, last))[:, : self.num_columns]

    def _zeros(self, first: int, last: int) -> Floats:
        bits, tensor = self._parts.bits, self._parts.zeros
        middle = np.float32(1 << (bits - 1))
        if tensor is None:
            return np.full((last - first, self._num_groups), middle, np.float32)
        if element_type(tensor) == SIGNED:
            return rows(tensor, first, last).astype(np.float32) + middle
        aligned = WORD_BITS // bits if self._parts.has_gaps else _ALIGNED
        start = first - first % aligned
        words_from = num_words(start, bits, has_gaps=self._parts.has_gaps)
        words_to = num_words(last + (-last % aligned), bits, has_gaps=self._parts.has_gaps)
        words = rows(tensor, words_from, min(words_to, tensor.num_rows))
        return self._unpacked(words.T).T[first - start : last - start].astype(np.float32)

    def _unpacked(self, words: NDArray[np.int32]) -> NDArray[np.uint8]:
        return unpack_rows(words, self._parts.bits, has_gaps=self._parts.has_gaps)

    def _scales(self, first: int, last: int) -> Floats:
        return float_rows(self._parts.scales, first, last)
