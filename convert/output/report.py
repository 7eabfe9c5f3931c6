"""What a conversion has done: for each tensor and in all, as numbers, as JSON and as a line.

The ``journal`` and the plan have the figures; nothing is measured here.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgellama.convert.output.journal import TensorRecord
from edgellama.convert.planning.conversion_plan import ConversionPlan, PlannedTensor
from edgellama.quant.replaced_file import named_writes


@dataclass(frozen=True)
class TensorReport:
    """A written tensor; errors are those of the written values against the source's.

    ``rmse`` is the root mean square error, ``relative_rmse`` that over the root mean square of the
    values, ``worst_block_error`` the root mean square error of the worst block of 32.
    """

    name: str
    shape: tuple[int, ...]
    source_format: str
    format: str
    num_bytes: int
    rmse: float
    relative_rmse: float
    worst_block_error: float


@dataclass(frozen=True)
class ConversionReport:
    """A finished conversion. ``relative_rmse`` is over all weights; speed counts source bytes.

    ``notes``: where the source said one thing and held another, what was done.
    """

    source: Path
    files: tuple[Path, ...]
    type: str
    tensors: tuple[TensorReport, ...]
    num_weights: int
    num_bytes: int
    bits_per_weight: float
    rmse: float
    relative_rmse: float
    seconds: float
    source_bytes: int
    peak_memory_bytes: int
    num_resumed_tensors: int
    is_verified: bool
    notes: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """The file to open: the result, or its first part."""
        return self.files[0]

    @property
    def bytes_per_second(self) -> float:
        """Bytes of the source's tensors over the seconds that the conversion took."""
        return self.source_bytes / self.seconds

    @property
    def summary(self) -> str:
        """One line: where, how large, how exact, how fast."""
        parts = f" in {len(self.files)} parts" if len(self.files) > 1 else ""
        return (
            f"{self.path}: {self.type}{parts}, {self.num_bytes / 1e6:,.1f} MB, "
            f"{self.bits_per_weight:.3f} bits per weight, "
            f"error {100 * self.relative_rmse:.3g} %, {self.seconds:.1f} s "
            f"({self.bytes_per_second / 1e6:,.0f} MB/s), "
            f"peak memory {self.peak_memory_bytes / 1e6:,.0f} MB"
            f"{', verified' if self.is_verified else ''}"
        )

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON can hold it."""
        totals = {
            name: value for name, value in vars(self).items() if name not in ("tensors", "files")
        }
        return {
            **totals,
            "source": str(self.source),
            "files": [str(path) for path in self.files],
            "bytes_per_second": self.bytes_per_second,
            "tensors": [{**vars(t), "shape": list(t.shape)} for t in self.tensors],
        }

    def write(self, path: Path) -> None:
        """Write ``to_json`` to a file."""
        with named_writes(path):
            path.write_text(json.dumps(self.to_json(), indent=1) + "\n", "utf-8")


def make_report(
    plan: ConversionPlan,
    records: list[TensorRecord],
    *,
    seconds: float,
    peak_memory_bytes: int,
    num_resumed_tensors: int,
    is_verified: bool,
) -> ConversionReport:
    """The report of a plan whose tensors have all been written."""
    squared_error = math.fsum(record.squared_error for record in records)
    squared_values = math.fsum(record.squared_values for record in records)
    return ConversionReport(
        source=plan.source,
        files=tuple(file.path for file in plan.files),
        type=plan.recipe.name,
        tensors=tuple(map(_tensor_report, plan.tensors, records)),
        num_weights=plan.num_weights,
        num_bytes=plan.num_bytes,
        bits_per_weight=plan.bits_per_weight,
        rmse=math.sqrt(squared_error / plan.num_weights),
        relative_rmse=_ratio(squared_error, squared_values),
        seconds=seconds,
        source_bytes=plan.source_bytes,
        peak_memory_bytes=peak_memory_bytes,
        num_resumed_tensors=num_resumed_tensors,
        is_verified=is_verified,
        notes=plan.notes,
    )


def _tensor_report(tensor: PlannedTensor, record: TensorRecord) -> TensorReport:
    return TensorReport(
        name=tensor.name,
        shape=tensor.shape,
        source_format=tensor.source.format.name,
        format=tensor.format.name,
        num_bytes=tensor.num_bytes,
        rmse=math.sqrt(record.squared_error / tensor.num_weights),
        relative_rmse=_ratio(record.squared_error, record.squared_values),
        worst_block_error=record.worst_block_error,
    )


def _ratio(squared_error: float, squared_values: float) -> float:
    return math.sqrt(squared_error / squared_values) if squared_error else 0.0
