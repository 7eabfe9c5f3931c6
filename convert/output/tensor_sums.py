"""Joins the results of a tensor's chunks in order, and says what makes a tensor unfit for writing.

Sums of floats are taken in the order of the rows, so they do not depend on the threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path

from edgellama.convert.output.checksum import TensorChecksum
from edgellama.convert.output.chunks import Chunk, chunks_of, run_in_order
from edgellama.convert.output.journal import TensorRecord
from edgellama.convert.output.row_work import ChunkResult
from edgellama.convert.planning.conversion_plan import PlannedTensor
from edgellama.kernels_cpu.quantizers.row_codec import ErrorSums
from edgellama.quant.errors import ConversionError
from edgellama.quant.ways import Way

LARGEST_HALF = 65504
Report = Callable[[PlannedTensor, int], None]
"""Told a tensor and how many more of its source's bytes are done."""


class TensorSums:
    """Checksums and errors of a tensor, chunk by chunk."""

    def __init__(self, tensor: PlannedTensor) -> None:
        self.tensor = tensor
        self._source, self._written = TensorChecksum(), TensorChecksum()
        self._errors = ErrorSums(0.0, 0.0, 0.0, 0)
        self._first_not_finite: tuple[int, int] | None = None

    def add(self, result: ChunkResult) -> None:
        """Count the next chunk."""
        self._source.add(result.source_checksum)
        self._written.add(result.written_checksum)
        self._errors += result.errors
        self._first_not_finite = self._first_not_finite or result.first_not_finite

    def record(self) -> TensorRecord:
        """The sums of all chunks so far."""
        return TensorRecord(
            self.tensor.name,
            self._source.hexdigest(),
            self._written.hexdigest(),
            self._errors.squared_error,
            self._errors.squared_values,
            self._errors.worst_block_error,
        )

    def check(self, source: Path) -> None:
        """ConversionError, naming ``source``, if there are values that no file should hold."""
        tensor = self.tensor
        if self._first_not_finite is not None:
            row, column = self._first_not_finite
            raise ConversionError(
                f"{source}: tensor {tensor.name} has {self._errors.num_not_finite} weights that "
                f"are NaN or infinite, the first in row {row}, column {column}; allowed: finite "
                "numbers"
            )
        if not math.isfinite(self._errors.squared_error):
            raise ConversionError(
                f"{source}: tensor {tensor.name} has weights too large for "
                f"{tensor.format.name}; allowed: up to {LARGEST_HALF}",
                way=Way(
                    f'tensor_types=[("{tensor.name}", "bf16")] gives it a larger range',
                    f"--tensor-type {tensor.name}=bf16 gives it a larger range",
                ),
            )


def sum_tensors(
    work: Callable[[Chunk], ChunkResult],
    tensors: Sequence[PlannedTensor],
    num_threads: int,
    report: Report,
) -> Generator[TensorSums, None, None]:
    """Do ``work`` on every chunk with ``num_threads``; the sums of each tensor, in order."""
    with closing(run_in_order(work, chunks_of(tensors), num_threads)) as results:
        for chunk, result in results:
            if chunk.first == 0:
                sums = TensorSums(chunk.tensor)
            sums.add(result)
            num_bytes = (chunk.last - chunk.first) * chunk.tensor.source.row_bytes
            report(chunk.tensor, num_bytes)
            if chunk.is_last:
                yield sums
