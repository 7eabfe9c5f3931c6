"""What is done to one chunk of rows: expand, quantize, measure, take checksums, write.

It runs on the pool's threads, each with arrays of its own. ``chunks`` cuts tensors into chunks,
``tensor_sums`` joins the results.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgellama.convert.output.checksum import chunk_checksum
from edgellama.convert.output.chunks import Chunk
from edgellama.convert.planning.conversion_plan import PlannedTensor
from edgellama.convert.sources.source_tensor import SourceTensor
from edgellama.kernels_cpu.quantizers.row_codec import ErrorSums, RowCodec, expander_of
from edgellama.quant.errors import KernelError, UnsupportedModelError
from edgellama.quant.formats import Format

Floats: TypeAlias = NDArray[np.float32]
Octets: TypeAlias = NDArray[np.uint8]


Write: TypeAlias = Callable[[PlannedTensor, int, Octets], None]
"""Takes a tensor, the number of a row, and the bytes of the rows from there on."""


@dataclass(frozen=True)
class ChunkResult:
    """Checksums of a chunk in the source and as written, and its errors.

    ``first_not_finite`` is the (row, column) of the first NaN or infinity, None without any.
    """

    source_checksum: bytes
    written_checksum: bytes
    errors: ErrorSums
    first_not_finite: tuple[int, int] | None = None


class RowWorker:
    """Converts and verifies chunks; every method may run on several threads at once."""

    def __init__(self, tensors: Iterable[PlannedTensor]) -> None:
        """``tensors``: all that will be worked on. UnsupportedModelError for unreadable formats."""
        self._codec = RowCodec()
        self._scratch = threading.local()
        self._tensors = tuple(tensors)
        for tensor in self._tensors:
            _check_readable(tensor.source)

    def prepare(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Compile the kernels that the tensors need."""
        quantized = {tensor.format.name for tensor in self._tensors if not tensor.is_copy}
        read = quantized | {tensor.source.format.name for tensor in self._tensors}
        searched = {
            tensor.format.name
            for tensor in self._tensors
            if tensor.importance is not None and not tensor.is_copy
        }
        self._codec.prepare(
            sorted(quantized),
            sorted(filter(_has_kernel, read)),
            progress,
            by_importance=sorted(searched),
        )

    def convert(self, chunk: Chunk, write: Write) -> ChunkResult:
        """Quantize the chunk and pass it to ``write``."""
        tensor = chunk.tensor
        source = tensor.source.rows(chunk.first, chunk.last)
        if tensor.is_copy:
            write(tensor, chunk.first, source)
            checksum = chunk_checksum(source)
            values = self._expanded(source, tensor, tensor.format)
            return self._result(chunk, checksum, checksum, values, values)
        values = self._expanded(source, tensor, tensor.source.format)
        written = self._array("written", (len(source), tensor.row_bytes), np.uint8)
        self._codec.quantize(values, tensor.format.name, written, tensor.importance)
        write(tensor, chunk.first, written)
        restored = self._expanded(written, tensor, tensor.format, "restored")
        checksums = chunk_checksum(source), chunk_checksum(written)
        return self._result(chunk, *checksums, values, restored)

    def compare(self, chunk: Chunk, written: SourceTensor) -> ChunkResult:
        """What ``convert`` gives, from the source and the written tensor as they lie there."""
        tensor = chunk.tensor
        source = tensor.source.rows(chunk.first, chunk.last)
        found = written.rows(chunk.first, chunk.last)
        checksums = chunk_checksum(source), chunk_checksum(found)
        values = self._expanded(source, tensor, tensor.source.format)
        restored = self._expanded(found, tensor, tensor.format, "restored")
        return self._result(chunk, *checksums, values, restored)

    def _result(
        self,
        chunk: Chunk,
        source_checksum: bytes,
        written_checksum: bytes,
        values: Floats,
        restored: Floats,
    ) -> ChunkResult:
        errors = self._codec.measure(values, restored)
        first = None
        if errors.num_not_finite:
            row, column = np.argwhere(~np.isfinite(values))[0].tolist()
            first = (chunk.first + row, column)
        return ChunkResult(source_checksum, written_checksum, errors, first)

    def _expanded(
        self, rows: Octets, tensor: PlannedTensor, stored: Format, place: str = "values"
    ) -> Floats:
        """The rows as f32, in this thread's array called ``place``, or where they are."""
        if stored.name == "F32" and rows.ctypes.data % 4 == 0:
            return rows.view(np.float32)
        values: Floats = self._array(place, (len(rows), tensor.num_columns), np.float32)
        if _has_kernel(stored.name):
            self._codec.expand(rows, stored.name, values)
        else:
            from gguf import GGMLQuantizationType, quants

            values[...] = quants.dequantize(rows, GGMLQuantizationType(stored.ggml_id))
        return values

    def _array(self, place: str, shape: tuple[int, int], dtype: Any) -> Any:
        """An array of this thread, used again for every chunk."""
        num_bytes = shape[0] * shape[1] * np.dtype(dtype).itemsize
        memory: Octets | None = getattr(self._scratch, place, None)
        if memory is None or memory.size < num_bytes:
            memory = np.empty(num_bytes, np.uint8)
            setattr(self._scratch, place, memory)
        return memory[:num_bytes].view(dtype).reshape(shape)


@cache
def _has_kernel(format_name: str) -> bool:
    try:
        expander_of(format_name)
    except KernelError:
        return False
    return True


def _check_readable(tensor: SourceTensor) -> None:
    if _has_kernel(tensor.format.name):
        return
    from gguf import GGMLQuantizationType, quants

    try:
        quants.dequantize(tensor.rows(0, 1), GGMLQuantizationType(tensor.format.ggml_id))
    except (NotImplementedError, ValueError) as error:
        raise UnsupportedModelError(
            f"tensor {tensor.name} is stored as {tensor.format.name}, which cannot be read: {error}"
        ) from None
