"""Tensors made from another one: some of its rows, its values times a number, rows of length 1.

They are read a few rows at a time, like their source. ``layout`` and the modules of a family know
which tensors need it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from edgellama.convert.dequantize.elements import float_rows
from edgellama.convert.sources.source_tensor import SourceTensor
from edgellama.quant.errors import UnsupportedModelError
from edgellama.quant.formats import FORMATS_BY_NAME

SCALES: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        **dict.fromkeys(("Q4_0", "Q5_0", "Q8_0", "IQ4_NL", "IQ4_XS"), (0,)),
        **dict.fromkeys(("IQ1_S", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"), (0,)),
        **dict.fromkeys(("Q4_1", "Q5_1", "Q4_K", "Q5_K"), (0, 2)),
        "Q2_K": (80, 82),
        "Q3_K": (108,),
        "Q6_K": (208,),
        "TQ1_0": (52,),
        "TQ2_0": (64,),
    }
)
"""The bytes of a block at which halves begin that multiply all of it, or all its minimums."""
_SMALLEST_LENGTH = 1e-12
"""What torch's normalize divides by at least."""


class PickedRows(SourceTensor):
    """A matrix of runs of another's rows, or a vector of runs of its elements, one run after the
    other.
    """

    def __init__(self, name: str, tensor: SourceTensor, runs: Sequence[range]) -> None:
        """``runs``: ranges in steps of 1; IndexError for rows or elements that are not there.

        ValueError for a vector in blocks.
        """
        self._is_vector = len(tensor.shape) == 1
        num_items = tensor.num_columns if self._is_vector else tensor.num_rows
        if any(run.step != 1 or not 0 <= run.start <= run.stop <= num_items for run in runs):
            raise IndexError(f"rows {runs} of {num_items} of tensor {tensor.name}")
        if self._is_vector and tensor.format.block_size != 1:
            raise ValueError(f"vector {tensor.name} is stored in blocks, as {tensor.format.name}")
        count = sum(map(len, runs))
        shape = (count,) if self._is_vector else (count, tensor.num_columns)
        super().__init__(name, shape, tensor.format)
        self._tensor, self._runs = tensor, tuple(runs)

    def _rows(self, first: int, last: int) -> NDArray[np.uint8]:
        if self._is_vector:
            elements = self._tensor.rows(first, last).reshape(-1, self.format.block_bytes)
            picked = [elements[run.start : run.stop] for run in self._runs if last > first]
            found = np.concatenate([elements[:0], *picked])
            return found.reshape(last - first, self.row_bytes)
        pieces, start = [np.empty((0, self.row_bytes), np.uint8)], 0
        for run in self._runs:
            picked_rows = run[max(first - start, 0) : max(last - start, 0)]
            if picked_rows:
                pieces.append(self._tensor.rows(picked_rows.start, picked_rows.stop))
            start += len(run)
        return pieces[1] if len(pieces) == 2 else np.concatenate(pieces)


class MultipliedTensor(SourceTensor):
    """A tensor's values times a number, as F32."""

    def __init__(self, tensor: SourceTensor, factor: float) -> None:
        """UnsupportedModelError for a tensor that is no weight."""
        _ = tensor.format  # Raises for what is no weight.
        super().__init__(tensor.name, tensor.shape, FORMATS_BY_NAME["F32"])
        self._tensor, self._factor = tensor, np.float32(factor)

    def _rows(self, first: int, last: int) -> NDArray[np.uint8]:
        values = float_rows(self._tensor, first, last) * self._factor
        return values.view(np.uint8).reshape(last - first, self.row_bytes)


class ScaledBlocks(SourceTensor):
    """A tensor of blocks times a number: their scales are, in halves, and their quants stay."""

    def __init__(self, tensor: SourceTensor, factor: float) -> None:
        """UnsupportedModelError for a format whose scales are no halves."""
        if tensor.format.name not in SCALES:
            raise UnsupportedModelError(
                f"tensor {tensor.name} is stored as {tensor.format.name} and cannot be multiplied; "
                f"supported: {', '.join(SCALES)}"
            )
        super().__init__(tensor.name, tensor.shape, tensor.format)
        self._tensor, self._factor = tensor, np.float32(factor)

    def _rows(self, first: int, last: int) -> NDArray[np.uint8]:
        rows = self._tensor.rows(first, last).copy()
        blocks = rows.reshape(-1, self.format.block_bytes)
        for start in SCALES[self.format.name]:
            halves = np.ascontiguousarray(blocks[:, start : start + 2]).view("<f2")
            with np.errstate(over="ignore", invalid="ignore"):
                scaled = (halves.astype(np.float32) * self._factor).astype("<f2")
            blocks[:, start : start + 2] = scaled.view(np.uint8)
        return rows


class UnitRows(SourceTensor):
    """A tensor's rows divided by their lengths, as F32; rows of zeros stay."""

    def __init__(self, tensor: SourceTensor) -> None:
        """UnsupportedModelError for a tensor that is no weight."""
        _ = tensor.format  # Raises for what is no weight.
        super().__init__(tensor.name, tensor.shape, FORMATS_BY_NAME["F32"])
        self._tensor = tensor

    def _rows(self, first: int, last: int) -> NDArray[np.uint8]:
        values = float_rows(self._tensor, first, last)
        lengths = np.sqrt(np.square(values, dtype=np.float64).sum(axis=1, keepdims=True))
        unit: NDArray[np.float32] = values / np.maximum(lengths, _SMALLEST_LENGTH).astype(
            np.float32
        )
        return unit.view(np.uint8).reshape(last - first, self.row_bytes)
