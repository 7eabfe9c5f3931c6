"""Reads columns of matrices that lie row by row in a file, in slabs that stay for the next call.

GPTQ and AWQ store a matrix transposed, so a few of its rows are a few columns in the file.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np

from edgellama.convert.dequantize.elements import Numbers, rows
from edgellama.convert.sources.source_tensor import SourceTensor

SLAB_BYTES = 1 << 23
MAX_HELD_BYTES = 3 * SLAB_BYTES
_READ_ELEMENTS = 1 << 19


class ColumnReader:
    """Reads columns of any number of tensors, and holds few slabs; safe for several threads."""

    def __init__(self, slab_bytes: int = SLAB_BYTES) -> None:
        self._slab_bytes = slab_bytes
        self._slabs: OrderedDict[tuple[SourceTensor, int], Numbers] = OrderedDict()
        self._lock = threading.Lock()

    def columns(self, tensor: SourceTensor, first: int, last: int) -> Numbers:
        """Columns as they are stored, (rows, last - first)."""
        width = self._slab_width(tensor)
        numbers = range(first // width, -(-last // width))
        pieces = [
            self._slab(tensor, number, width)[
                :, max(first - number * width, 0) : last - number * width
            ]
            for number in numbers
        ]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=1)

    def _slab_width(self, tensor: SourceTensor) -> int:
        """Columns of a slab: all, where they fit."""
        column_bytes = tensor.num_rows * rows(tensor, 0, 0).itemsize
        return max(1, min(tensor.num_columns, self._slab_bytes // max(1, column_bytes)))

    def _slab(self, tensor: SourceTensor, number: int, width: int) -> Numbers:
        with self._lock:
            slab = self._slabs.pop((tensor, number), None)
            if slab is None:
                slab = _read_columns(tensor, number * width, (number + 1) * width)
            self._slabs[tensor, number] = slab
            while len(self._slabs) > 1 and sum(map(_bytes, self._slabs.values())) > MAX_HELD_BYTES:
                self._slabs.popitem(last=False)
            return slab


def _bytes(array: Numbers) -> int:
    return array.nbytes


def _read_columns(tensor: SourceTensor, first: int, last: int) -> Numbers:
    """The slab itself, from a few rows at a time."""
    step = max(1, _READ_ELEMENTS // max(1, tensor.num_columns))
    width = min(last, tensor.num_columns) - first
    slab = np.empty((tensor.num_rows, width), rows(tensor, 0, 0).dtype)
    for row in range(0, tensor.num_rows, step):
        end = min(row + step, tensor.num_rows)
        slab[row:end] = rows(tensor, row, end)[:, first:last]
    return slab
