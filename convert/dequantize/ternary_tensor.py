"""BitNet's matrices of -1, 0 and 1 with one scale, four numbers in a byte, as F32.

A byte holds numbers of four rows that lie a quarter of the matrix apart, the first row in the
lowest bits. The scale divides, or multiplies if config.json names AutoBitLinear.
Source: transformers.integrations.bitnet.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgellama.convert.dequantize import elements
from edgellama.convert.dequantize.elements import element_type, float_rows, rows
from edgellama.convert.sources.source_tensor import SourceTensor
from edgellama.quant.error_text import shown
from edgellama.quant.errors import ModelFileError
from edgellama.quant.formats import FORMATS_BY_NAME

SCALE = "weight_scale"
_ROWS_IN_BYTE = 4


class TernaryTensor(SourceTensor):
    """The matrix of four times as many rows as there are rows of bytes."""

    def __init__(self, name: str, numbers: SourceTensor, factor: np.float32) -> None:
        shape = _ROWS_IN_BYTE * numbers.num_rows, numbers.num_columns
        super().__init__(name, shape, FORMATS_BY_NAME["F32"])
        self._numbers, self._factor = numbers, factor

    def _rows(self, first: int, last: int) -> NDArray[np.uint8]:
        values = np.empty((last - first, self.num_columns), np.float32)
        count = self._numbers.num_rows
        for place in range(_ROWS_IN_BYTE):
            start, end = max(first, place * count), min(last, (place + 1) * count)
            if start < end:
                octets = rows(self._numbers, start - place * count, end - place * count)
                values[start - first : end - first] = (octets >> (2 * place)) & 3
        values -= 1
        values *= self._factor
        return values.view(np.uint8)


def are_ternary(parts: Mapping[str, SourceTensor]) -> bool:
    """Whether a module's tensors are those of such a matrix."""
    weight, scale = parts.get("weight"), parts.get(SCALE)
    if weight is None or scale is None or scale.shape not in ((), (1,)):
        return False
    is_packed = element_type(weight) == "U8" and len(weight.shape) == 2
    return is_packed and element_type(scale) in elements.PLAIN


def take_ternary(
    source: Path, module: str, rest: dict[str, SourceTensor], *, multiplies: bool
) -> tuple[str, TernaryTensor]:
    """The matrix with what it is called; its parts are taken out of ``rest``.

    ModelFileError for a scale that is no number above 0.
    """
    numbers, stored = rest.pop("weight"), rest.pop(SCALE)
    scale = np.float32(float_rows(stored, 0, 1)[0, 0])
    if not (scale > 0 and np.isfinite(scale)):
        raise ModelFileError(
            f"{source}: tensor {shown(stored.name)} is {scale}; needed: a number above 0"
        )
    factor = scale if multiplies else np.float32(1) / scale
    return "BitNet's ternary numbers", TernaryTensor(f"{module}.weight", numbers, factor)
