"""The files of a conversion while they are written: ``NAME.partial``, renamed when complete.

Tensors are written at their final offsets, from any thread and in any order. The journal knows what
has been written, and whether it can be trusted.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edgellama.convert.output.own_file import open_own_file
from edgellama.convert.planning.conversion_plan import ConversionPlan, PlannedFile, PlannedTensor
from edgellama.convert.planning.file_names import partial_path
from edgellama.quant.errors import FROM_THE_START, ConversionError


class OutputFiles:
    """All partial files of a plan, open, with their headers written; close() keeps them.

    ``keep`` leaves what an earlier conversion of the same plan has written.
    """

    def __init__(self, plan: ConversionPlan, *, keep: bool) -> None:
        self._plan = plan
        self._descriptors: list[int] = []
        self._places: dict[str, tuple[int, int]] = {}
        self._write_at = _positioned_writer()
        try:
            for file in plan.files:
                self._open(file, keep)
        except BaseException:
            self.close()
            raise

    def write(self, tensor: PlannedTensor, first_row: int, rows: NDArray[np.uint8]) -> None:
        """Write ``rows`` (n, row_bytes) of ``tensor`` from ``first_row`` on."""
        descriptor, offset = self._places[tensor.name]
        offset += first_row * tensor.row_bytes
        self._write_at(descriptor, rows.reshape(-1).data, offset)

    def close(self) -> None:
        """Close the files and leave them as they are."""
        while self._descriptors:
            os.close(self._descriptors.pop())

    def _open(self, file: PlannedFile, keep: bool) -> None:
        descriptor = open_own_file(partial_path(file.path))
        self._descriptors.append(descriptor)
        if not keep:
            os.ftruncate(descriptor, 0)
        self._write_at(descriptor, memoryview(file.header), 0)
        os.ftruncate(descriptor, file.num_bytes)
        for tensor, offset in zip(file.tensors, file.offsets, strict=True):
            self._places[tensor.name] = (descriptor, offset)


def rename_files(plan: ConversionPlan) -> None:
    """Give every finished file its own name; the first, which readers open, comes last.

    What has its name already is left alone; ConversionError for a file that has neither.
    """
    for file in reversed(plan.files):
        if partial_path(file.path).exists():
            os.replace(partial_path(file.path), file.path)
        elif not file.path.exists():
            raise ConversionError(f"{file.path}: it is gone", way=FROM_THE_START)


def remove_partial_files(plan: ConversionPlan) -> None:
    """Delete what has been written so far."""
    for file in plan.files:
        partial_path(file.path).unlink(missing_ok=True)


def _positioned_writer() -> Callable[[int, memoryview, int], None]:
    """Write all of a buffer at an offset of a descriptor; from several threads at once."""
    if hasattr(os, "pwrite"):
        return _write_all
    lock = threading.Lock()

    def seek_and_write(descriptor: int, data: memoryview, offset: int) -> None:
        with lock:
            os.lseek(descriptor, offset, os.SEEK_SET)
            while data:
                data = data[os.write(descriptor, data) :]

    return seek_and_write


def _write_all(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        num_written = os.pwrite(descriptor, data, offset)
        data, offset = data[num_written:], offset + num_written
