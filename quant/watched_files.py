"""Tells whether files are still what they were when they were mapped.

Weights that are gone end a process that reads them, and others than were loaded make no sense.
Another file in a file's place does not matter: a mapping stays with the one that it has opened.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from edgellama.quant.errors import ModelFileError
from edgellama.quant.mapped_file import FileMapping, Stamp


class WatchedFiles:
    """Mapped files, which it keeps open, with what their ``samples`` were before."""

    def __init__(
        self,
        paths: Sequence[Path],
        mappings: Sequence[FileMapping],
        samples: Sequence[Sequence[bytes]],
    ) -> None:
        self._paths, self._mappings, self._samples = paths, mappings, samples
        self._stamps = [mapping.stamp for mapping in mappings]
        self._descriptors = [(number, each.fileno()) for number, each in enumerate(mappings)]

    def check(self) -> None:
        """ModelFileError if a file was cut, or has other content; takes some microseconds.

        Samples of the content are compared only where a file has another time than it had.
        """
        number = 0
        try:
            # Each step asks, with none of this in the processor's caches, so calls are kept few.
            for number, descriptor in self._descriptors:
                status = os.fstat(descriptor)
                stamp = status.st_size, status.st_mtime_ns
                if stamp != self._stamps[number]:
                    self._look_closer(number, stamp)
        except OSError:  # of a drive that is gone
            raise self._error(number) from None

    def _look_closer(self, number: int, stamp: Stamp) -> None:
        """Take the time of a file that was only touched."""
        mapping = self._mappings[number]
        if stamp[0] != len(mapping) or mapping.samples() != self._samples[number]:
            raise self._error(number)
        self._stamps[number] = stamp

    def _error(self, number: int) -> ModelFileError:
        return ModelFileError(
            f"{self._paths[number]}: the file was written to or cut short while it was loaded; "
            "load it anew, and replace files only by renaming others"
        )
