"""The journal of a conversion: what is finished, so that it can be resumed, and who is at work.

Each finished tensor has one line of JSON, appended after its bytes were written. A line that was
cut off by the end of the process does not count. The open file is locked, so that two conversions
cannot write the same output; the system releases the lock when the process ends, however it ends.
"""

from __future__ import annotations

import errno
import json
import os
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path

from edgellama.convert.output.file_lock import try_lock
from edgellama.convert.output.own_file import open_own_file
from edgellama.convert.planning.file_names import journal_path
from edgellama.quant.errors import ConversionError, ResumeError

FORMAT_VERSION = 1


@dataclass(frozen=True)
class TensorRecord:
    """A finished tensor: checksums of its bytes in the source and as written, and its errors.

    ``squared_error`` and ``squared_values`` are sums over all elements, ``worst_block_error`` is
    the root mean square error of the worst block of 32.
    """

    name: str
    source_checksum: str
    written_checksum: str
    squared_error: float
    squared_values: float
    worst_block_error: float


def num_finished(output: Path) -> int:
    """How many tensors a conversion to ``output`` has finished that was stopped; 0 for none."""
    try:
        lines = journal_path(output).read_bytes().count(b"\n")
    except OSError:
        return 0
    return max(0, lines - 1)  # the first one says what is converted


class Journal:
    """The journal beside ``output``, open and locked; ConversionError if another has it.

    ``fingerprint`` stands for all that decides what is written. ``records`` holds what an earlier
    conversion with the same fingerprint had finished; ``is_complete`` tells whether that was all,
    and ``is_verified`` whether it was read back.
    """

    def __init__(self, output: Path, fingerprint: str, *, resume: bool) -> None:
        self.path = journal_path(output)
        self._file = _open_locked(self.path, output)
        self.records: list[TensorRecord] = []
        self.is_complete = self.is_verified = False
        try:
            self.was_started = resume and self._read(output, fingerprint)
            if not self.was_started:
                self._file.truncate(0)
                self._append({"version": FORMAT_VERSION, "fingerprint": fingerprint})
        except OSError as error:
            self._file.close()
            raise _unwritable(output, error) from None
        except BaseException:
            self._file.close()
            raise

    def add(self, record: TensorRecord) -> None:
        """A tensor is finished, and its bytes are written."""
        self._append(asdict(record))
        self.records.append(record)

    def complete(self, *, is_verified: bool) -> None:
        """All files are whole and only their names are left to be changed."""
        self._append({"complete": True, "verified": is_verified})
        self.is_complete, self.is_verified = True, is_verified

    def keep_first(self, count: int) -> None:
        """Forget the records after the first ``count``."""
        self._file.seek(0)
        lines = self._file.read().splitlines(keepends=True)[: 1 + count]
        self._file.truncate(sum(map(len, lines)))
        del self.records[count:]

    def close(self) -> None:
        """Lift the lock; the journal stays."""
        self._file.close()

    def remove(self) -> None:
        """Delete the journal: there is nothing left to resume."""
        try:
            self.path.unlink(missing_ok=True)
        except PermissionError:  # Windows deletes no file that is open
            self._file.close()
            self.path.unlink(missing_ok=True)
        self._file.close()

    def _append(self, entry: dict[str, object]) -> None:
        line = json.dumps(entry).encode() + b"\n"
        self._file.seek(0, os.SEEK_END)
        if self._file.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _read(self, output: Path, fingerprint: str) -> bool:
        """Take over what the file holds; whether it holds anything."""
        self._file.seek(0)
        # A line that was cut off by the end of a process has no end.
        whole = self._file.read().rpartition(b"\n")[0]
        self._file.truncate(len(whole) + 1 if whole else 0)
        lines = whole.splitlines()
        if not lines:
            return False
        try:
            start, *entries = map(json.loads, lines)
            version, found = start["version"], start["fingerprint"]
            self.is_complete = bool(entries) and "complete" in entries[-1]
            self.is_verified = self.is_complete and bool(entries[-1]["verified"])
            self.records = [TensorRecord(**entry) for entry in entries if "name" in entry]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ResumeError(f"{self.path}: damaged, {error}") from None
        if (version, found) != (FORMAT_VERSION, fingerprint):
            raise ResumeError(f"{output}: options or source are not those that it was begun with")
        return True


def _unwritable(output: Path, error: OSError) -> ConversionError:
    return ConversionError(f"{output}: cannot be written, {error.strerror}")


def _open_locked(path: Path, output: Path) -> FileIO:
    """The file at ``path``, made if need be, with its lock."""
    while True:
        try:
            descriptor = open_own_file(path)
        except OSError as error:
            raise _unwritable(output, error) from None
        file = FileIO(descriptor, "r+")
        if not try_lock(descriptor):
            file.close()
            raise ConversionError(f"{output}: another conversion is writing it")
        try:
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return file
        except FileNotFoundError:
            pass
        # The conversion that held the lock has ended and taken its journal with it.
        file.close()
