"""Matrices of FP8 or int8 numbers, times one scale for the tensor, each row, or each block.

They are FP8 checkpoints of Meta and FBGEMM (a scale for a row), AutoFP8 and ModelOpt (one scale),
DeepSeek (blocks of 128 x 128), compressed-tensors and torchao (any of these, also int8), MXFP8 (32
numbers of a row), Meta's int8, and bitsandbytes' (int8 with a scale for a row). All multiply:
``weight_scale_inv`` is the inverse of what the weights were multiplied with.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edgellama.convert.dequantize.elements import Floats, float_rows, scale_rows
from edgellama.convert.sources.source_tensor import SourceTensor
from edgellama.quant.formats import FORMATS_BY_NAME

Reader = Callable[[SourceTensor, int, int], Floats]


class ScaledTensor(SourceTensor):
    """A matrix as F32: its numbers, less a zero point if there is one, times their scales."""

    def __init__(
        self,
        name: str,
        numbers: SourceTensor,
        scale: SourceTensor | None,
        zero_point: SourceTensor | None,
        block: tuple[int, int],
        factor: float = 1.0,
    ) -> None:
        """``block``: rows and columns that share a scale; ``scale`` None is 1, ``factor`` goes
        with every scale.
        """
        super().__init__(name, numbers.shape, FORMATS_BY_NAME["F32"])
        self._numbers, self._scale, self._zero_point = numbers, scale, zero_point
        self._block, self._factor = block, np.float32(factor)

    def _rows(self, first: int, last: int) -> NDArray[np.uint8]:
        values = float_rows(self._numbers, first, last)
        if self._zero_point is not None:
            values = values - self._spread(self._zero_point, float_rows, first, last)
        if self._scale is not None:
            values = values * self._spread(self._scale, scale_rows, first, last)
        if self._factor != 1:
            values = values * self._factor
        return np.ascontiguousarray(values).view(np.uint8).reshape(last - first, self.row_bytes)

    def _spread(self, shared: SourceTensor, read: Reader, first: int, last: int) -> Floats:
        """What blocks share, for each element of rows, or for each row where it is one."""
        block_rows, block_columns = self._block
        blocks = np.arange(first, last) // block_rows
        if len(shared.shape) < 2:
            factors: Floats = read(shared, 0, 1).reshape(-1, 1)[blocks]
        else:
            top = first // block_rows
            bottom = -(-last // block_rows)
            factors = read(shared, min(top, bottom), bottom)[blocks - top]
        if factors.shape[1] == 1:
            return factors
        spread: Floats = np.repeat(factors, block_columns, axis=1)[:, : self.num_columns]
        return spread
