"""Rows of weights between f32 and every format: quantize, expand, measure.

The door from the converter to the kernels: checks the arrays, packs the arguments, calls. Every
call runs on the caller's thread with the GIL released, so callers share work by cutting tensors
into chunks of rows; results do not depend on how. What a format's bytes mean is left to the
kernels.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellama.kernels_cpu.compiling.code_cache import CompiledKernels, choose_tier
from edgellama.kernels_cpu.compiling.compile_pool import Progress
from edgellama.kernels_cpu.signatures import Kernel
from edgellama.kernels_cpu.threads import team_layout as layout
from edgellama.kernels_cpu.threads.thread_team import ENTRY
from edgellama.quant.errors import KernelError
from edgellama.quant.formats import FORMATS_BY_NAME, QUANTIZED_FORMATS, WRITABLE_FORMATS

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
LEAST_IMPORTANCE = np.float32(1e-6)
"""Of a column, in units of the largest."""
ROUND, SEARCH, WIDEN, MEASURE = "round", "search", "widen", Kernel("measure")
"""Families of kernels that write formats and read them, and the kernel that compares rows."""
SCRATCH_BYTES = 80 * 1024
"""What a search works in."""
ROW_SUMS = np.dtype(
    [("error", np.float64), ("squares", np.float64), ("worst", np.float64), ("bad", np.int64)]
)
"""What ``quantize_errors`` writes for a row; ``worst`` is the mean square of its worst block."""


@dataclass(frozen=True)
class ErrorSums:
    """Errors of restored against original numbers; ``+`` joins those of two sets of rows.

    ``worst_block_error`` is the root mean square error of the worst block of 32.
    """

    squared_error: float
    squared_values: float
    worst_block_error: float
    num_not_finite: int

    def __add__(self, other: ErrorSums) -> ErrorSums:
        return ErrorSums(
            self.squared_error + other.squared_error,
            self.squared_values + other.squared_values,
            max(self.worst_block_error, other.worst_block_error),
            self.num_not_finite + other.num_not_finite,
        )


class RowCodec:
    """Quantizes, expands and measures rows on one tier; every method may run on many threads."""

    def __init__(self, tier: str | None = None) -> None:
        self._kernels = CompiledKernels(choose_tier(tier))
        self._entries: dict[str, Callable[[int, int, int], None]] = {}
        self._lock = threading.Lock()

    def prepare(
        self,
        quantized: Iterable[str],
        expanded: Iterable[str],
        progress: Progress | None = None,
        by_importance: Iterable[str] = (),
    ) -> None:
        """Compile and load what these formats need, and ``measure``, in one go.

        ``by_importance``: the formats that importance will come with. Whatever is not prepared is
        compiled when it is first used. Raises KernelError.
        """
        wanted = {quantizer_of(name) for name in quantized}
        wanted |= {quantizer_of(name, by_importance=True) for name in by_importance}
        wanted |= {expander_of(name) for name in expanded} | {MEASURE}
        self._load(sorted(kernel.name for kernel in wanted if kernel is not None), progress)

    def quantize(
        self, rows: Floats, format_name: str, out: Bytes, importance: Floats | None = None
    ) -> None:
        """Write f32 ``rows`` (n, columns) to ``out`` (n, row_bytes) in a format.

        ``importance`` (columns,), not negative, tells how much an error in each column matters;
        formats that have no use for it ignore it. Raises KernelError for arrays that do not fit.
        """
        kernel = quantizer_of(format_name)
        _, num_columns = _checked_rows(rows, format_name, out)
        if importance is not None:
            _check("importance", importance, np.float32, (num_columns,))
            importance = usable_importance(importance)
            kernel = quantizer_of(format_name, importance is not None)
        if kernel is None:
            out.view(np.float32)[...] = rows
            return
        block_size = FORMATS_BY_NAME[format_name].block_size
        arguments: list[npt.NDArray[Any] | int] = [rows, rows.size // block_size, out]
        if kernel.family == SEARCH:
            weights = 0 if importance is None else importance
            arguments += [num_columns // block_size, weights, np.empty(SCRATCH_BYTES, np.uint8)]
        self._call(kernel, *arguments)

    def expand(self, data: Bytes, format_name: str, out: Floats) -> None:
        """Write the rows of ``data`` (n, row_bytes), in a format, to ``out`` (n, columns) as f32.

        Raises KernelError for arrays that do not fit and for formats that have no kernel.
        """
        kernel = expander_of(format_name)
        num_rows, num_columns = _checked_rows(out, format_name, data)
        if kernel is None:
            out[...] = data.view(np.float32)
        elif kernel.family == WIDEN:
            self._call(kernel, data, num_rows * num_columns, out)
        else:
            row_numbers = np.arange(num_rows, dtype=np.int32)
            counter = np.zeros(layout.COUNTER_BYTES // 8, np.int64)
            self._call(
                *(kernel, data, data.strides[0], num_columns),
                *(row_numbers, out, out.strides[0], num_rows, counter),
            )

    def measure(self, rows: Floats, restored: Floats) -> ErrorSums:
        """Errors of ``restored`` (n, columns) against ``rows``; row sums are exact to f32's 1e-7.

        Sums over rows are f64, so joining chunks differs from one large call by 1e-15 at most.
        """
        _check("rows", rows, np.float32, rows.shape)
        _check("restored", restored, np.float32, rows.shape)
        num_rows, num_columns = rows.shape
        sums = np.zeros(num_rows, ROW_SUMS)
        self._call(MEASURE, rows, restored, num_rows, num_columns, sums)
        return ErrorSums(
            math.fsum(sums["error"]),
            math.fsum(sums["squares"]),
            math.sqrt(sums["worst"].max(initial=0.0)),
            int(sums["bad"].sum()),
        )

    def _call(self, kernel: Kernel, *arguments: npt.NDArray[Any] | int) -> None:
        """Run a kernel over a record of its arguments; arrays are passed by address."""
        record = np.array(
            [a.ctypes.data if isinstance(a, np.ndarray) else a for a in arguments], np.int64
        )
        entry = self._entries.get(kernel.name)
        if entry is None:
            self._load([kernel.name], None)
            entry = self._entries[kernel.name]
        entry(record.ctypes.data, 0, 0)

    def _load(self, names: Iterable[str], progress: Progress | None) -> None:
        with self._lock:
            missing = [name for name in names if name not in self._entries]
            self._kernels.ensure(missing, progress)
            for name in missing:
                self._entries[name] = ENTRY(self._kernels.address(name))


def quantizer_of(format_name: str, by_importance: bool = False) -> Kernel | None:
    """The kernel that writes a format; None where rows are only copied."""
    if format_name not in WRITABLE_FORMATS:
        allowed = ", ".join(WRITABLE_FORMATS)
        raise KernelError(f"rows cannot be quantized to {format_name}; allowed: {allowed}")
    writers = FORMATS_BY_NAME[format_name].writers
    if SEARCH in writers and (by_importance or ROUND not in writers):
        return Kernel(SEARCH, (format_name,))
    return Kernel(ROUND, (format_name,)) if ROUND in writers else None


def usable_importance(importance: Floats) -> Floats | None:
    """Importance without zeros, which would leave blocks without any aim; None if all are."""
    largest = float(importance.max(initial=0.0))
    if not 0.0 < largest < math.inf:
        return None
    usable: Floats = np.maximum(importance / np.float32(largest), LEAST_IMPORTANCE)
    return usable


def expander_of(format_name: str) -> Kernel | None:
    """The kernel that reads a format; None where rows are only copied."""
    found = FORMATS_BY_NAME[format_name]
    if found.is_float:
        return None if "copy" in found.writers else Kernel(WIDEN, (format_name,))
    if format_name not in QUANTIZED_FORMATS:
        raise KernelError(f"rows of {format_name} cannot be expanded; no kernel reads that format")
    return Kernel("embed", (format_name,))


def _checked_rows(rows: Floats, format_name: str, data: Bytes) -> tuple[int, int]:
    """Shape of the f32 rows, when ``data`` is as large as the format wants."""
    if rows.ndim != 2:
        raise KernelError(f"rows have the shape {rows.shape}; allowed: (rows, columns)")
    num_rows, num_columns = rows.shape
    row_bytes = FORMATS_BY_NAME[format_name].row_bytes(num_columns)
    _check("rows", rows, np.float32, rows.shape)
    _check(f"{format_name} data", data, np.uint8, (num_rows, row_bytes))
    return num_rows, num_columns


def _check(what: str, array: npt.NDArray[Any], dtype: Any, shape: tuple[int, ...]) -> None:
    """Kernels trust addresses, so nothing else may reach them."""
    if array.dtype != dtype or array.shape != shape or not array.flags.c_contiguous:
        raise KernelError(
            f"{what}: {array.dtype} {array.shape} with strides {array.strides}; "
            f"allowed: contiguous {np.dtype(dtype)} {shape}"
        )
