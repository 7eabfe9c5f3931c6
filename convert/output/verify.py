"""Reads written files back, as an engine would, and compares all of them with what was meant.

Metadata and the table of tensors go through our own reader. Every tensor's bytes must have the
checksum of what was written, and its values the errors that the report will show.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

import numpy as np
from gguf import GGUFValueType

from edgellama.convert.metadata import MetadataItem
from edgellama.convert.output.chunks import Chunk
from edgellama.convert.output.journal import TensorRecord
from edgellama.convert.output.row_work import ChunkResult, RowWorker
from edgellama.convert.output.tensor_sums import Report, sum_tensors
from edgellama.convert.planning.conversion_plan import ConversionPlan, PlannedFile, PlannedTensor
from edgellama.convert.planning.file_names import partial_path
from edgellama.convert.sources.source_tensor import MappedTensor
from edgellama.quant.errors import ConversionError
from edgellama.quant.gguf.metadata import MetadataValue
from edgellama.quant.gguf.part import read_part


def written_records(
    plan: ConversionPlan,
    tensors: Sequence[PlannedTensor],
    worker: RowWorker,
    num_threads: int,
    report: Report,
) -> Generator[TensorRecord, None, None]:
    """For each of ``tensors``, what its source and its bytes in the partial files add up to."""
    written = {
        tensor.name: MappedTensor(tensor.name, tensor.shape, tensor.format, tensor.data)
        for file in plan.files
        for tensor in read_part(partial_path(file.path)).tensors
    }

    def compare(chunk: Chunk) -> ChunkResult:
        return worker.compare(chunk, written[chunk.tensor.name])

    for sums in sum_tensors(compare, tensors, num_threads, report):
        yield sums.record()


def verify_files(
    plan: ConversionPlan,
    records: Sequence[TensorRecord],
    worker: RowWorker,
    num_threads: int,
    report: Report,
) -> None:
    """ConversionError unless the partial files hold what ``plan`` and ``records`` say."""
    for file in plan.files:
        _verify_header(file)
    found = written_records(plan, plan.tensors, worker, num_threads, report)
    for record, written in zip(records, found, strict=True):
        if record != written:
            raise _failed(plan.output, f"tensor {record.name} is not what was written")


def _verify_header(file: PlannedFile) -> None:
    part = read_part(partial_path(file.path))
    if list(part.metadata) != list(file.metadata):
        raise _failed(file.path, "the metadata keys differ")
    for key, item in file.metadata.items():
        if not _is_same(part.metadata[key], item):
            raise _failed(file.path, f"metadata {key} differs")
    meant = [(tensor.name, tensor.shape, tensor.format) for tensor in file.tensors]
    if [(tensor.name, tensor.shape, tensor.format) for tensor in part.tensors] != meant:
        raise _failed(file.path, "the table of tensors differs")


def _failed(path: object, what: str) -> ConversionError:
    return ConversionError(f"{path}: verification failed: {what}")


def _is_same(found: MetadataValue, item: MetadataItem) -> bool:
    """Whether a value that was read is the one to be written, in the precision of its type."""
    if item.item_type == GGUFValueType.STRING:
        return bool(list(found) == list(item.value))  # type: ignore[arg-type, call-overload]
    if isinstance(found, np.ndarray):
        meant = item.value
        values = list(meant) if isinstance(meant, bytes) else meant
        return bool(np.array_equal(found, np.asarray(values, found.dtype)))
    if item.type == GGUFValueType.FLOAT32:
        return bool(np.float32(found) == np.float32(item.value))  # type: ignore[arg-type]
    return bool(found == item.value)
