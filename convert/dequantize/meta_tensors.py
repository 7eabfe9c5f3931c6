"""What Meta's quantized Llama 3.2 adds to its matrices: a low-rank adaptor, and a rotated input.

QLoRA's adaptor was trained with the quantized matrix and belongs to it. SpinQuant multiplies the
input of each w2 with a Hadamard matrix when it runs; here the matrix itself is rotated instead.
Sources: llama_models' quantization/loader, llama_stack's hadamard_utils.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgellama.convert.dequantize.elements import Floats, element_type, float_rows
from edgellama.convert.sources.source_tensor import SourceTensor
from edgellama.quant.formats import FORMATS_BY_NAME

DOWN, UP = "adaptor.A.weight", "adaptor.B.weight"
ADAPTOR = (DOWN, UP)


class AdaptedTensor(SourceTensor):
    """A matrix plus scale x up x down, as F32."""

    def __init__(
        self, matrix: SourceTensor, down: SourceTensor, up: SourceTensor, scale: float
    ) -> None:
        super().__init__(matrix.name, matrix.shape, FORMATS_BY_NAME["F32"])
        self._matrix, self._down, self._up, self._scale = matrix, down, up, scale

    @staticmethod
    def fits(matrix: SourceTensor, down: SourceTensor, up: SourceTensor) -> bool:
        """Whether the factors are of this matrix, and can be read."""
        rank = down.shape[0] if len(down.shape) == 2 else 0
        num_rows, num_columns = matrix.shape
        shapes = (rank, num_columns), (num_rows, rank)
        is_readable = element_type(down) != "" and element_type(up) != ""
        return rank > 0 and (down.shape, up.shape) == shapes and is_readable

    def _rows(self, first: int, last: int) -> NDArray[np.uint8]:
        values = float_rows(self._matrix, first, last)
        product = float_rows(self._up, first, last) @ float_rows(self._down, 0, self._down.num_rows)
        values = values + np.float32(self._scale) * product
        return values.view(np.uint8).reshape(last - first, self.row_bytes)


class RotatedTensor(SourceTensor):
    """A matrix times the normalized Hadamard matrix of its columns, a power of two, as F32."""

    def __init__(self, matrix: SourceTensor) -> None:
        super().__init__(matrix.name, matrix.shape, FORMATS_BY_NAME["F32"])
        self._matrix = matrix

    def _rows(self, first: int, last: int) -> NDArray[np.uint8]:
        values = hadamard_transform(float_rows(self._matrix, first, last))
        return values.view(np.uint8).reshape(last - first, self.row_bytes)


def hadamard_transform(rows: Floats) -> Floats:
    """Rows times the Hadamard matrix over the root of its size, which is its own inverse."""
    size = rows.shape[1]
    values = np.array(rows, np.float32, order="C")
    step = 1
    while step < size:
        pairs = values.reshape(len(rows), -1, 2, step)
        values = np.stack(
            (pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]), axis=2
        )
        step *= 2
    transformed: Floats = values.reshape(rows.shape) * np.float32(size**-0.5)
    return transformed
