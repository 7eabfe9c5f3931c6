"""The files of ``edgellama batch``: prompts in, texts out, a JSON object on each line.

A run can be continued after any end of the process: a line is either whole or dropped, and finished
ids are recognised. The library decides what a prompt may say.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import stat
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, BinaryIO

import click
import numpy as np
import numpy.typing as npt

from edgellama.convert.output.file_lock import try_lock
from edgellama.quant.error_text import shown
from edgellama.quant.records import dataclass
from edgellama.quant.replaced_file import named_writes, replaced_file

STANDARD_STREAM = "-"
LINE_START = b'{"id": '
"""How every line begins that is written here: what is torn and begins otherwise is not ours."""
LINE_FORM = 'allowed: an object such as {"prompt": "Once upon a time"}'
SYNC_SECONDS = 1.0
WAIT_SECONDS = 0.05
RECENT_IDS = 1 << 16


class LineIds:
    """A set of ids that takes 8 bytes for each: a hash, shared by two with odds of 2**-64."""

    def __init__(self) -> None:
        self._sorted: npt.NDArray[np.uint64] = np.empty(0, np.uint64)
        self._recent: set[int] = set()

    def __len__(self) -> int:
        return len(self._sorted) + len(self._recent)

    def add(self, line_id: object) -> bool:
        """Whether the id was new."""
        key = json.dumps(line_id, sort_keys=True).encode()
        number = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")
        place = int(np.searchsorted(self._sorted, np.uint64(number)))
        is_old = place < len(self._sorted) and int(self._sorted[place]) == number
        if is_old or number in self._recent:
            return False
        self._recent.add(number)
        if len(self._recent) >= RECENT_IDS:
            added = np.fromiter(self._recent, np.uint64, len(self._recent))
            self._sorted = np.sort(np.concatenate([self._sorted, added]))
            self._recent.clear()
        return True


@dataclass(frozen=True)
class InputLine:
    """A line of the input: its number from 1 on, its id, and its other keys or what is wrong."""

    number: int
    id: object
    content: dict[str, Any] | None
    error: str = ""


def parse_line(number: int, data: bytes) -> InputLine:
    """A line of JSON; without an id its number is the id."""
    try:
        content = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return InputLine(number, number, None, f"line {number} is no JSON, {error}; {LINE_FORM}")
    if not isinstance(content, dict):
        return InputLine(number, number, None, f"line {number} is no JSON object; {LINE_FORM}")
    line_id = content.pop("id", number)
    if not isinstance(line_id, (str, int, float)) or isinstance(line_id, bool):
        wrong = f"line {number}: id is {shown(line_id)}; allowed: a text or a number"
        return InputLine(number, number, None, wrong)
    return InputLine(number, line_id, content)


class BatchInput:
    """The lines of a file or of standard input, which may come slowly."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.num_lines = None if path == STANDARD_STREAM else _count_lines(Path(path))

    def lines(self) -> Iterator[InputLine | None]:
        """Every line that is not empty; None if there is none at the moment."""
        for number, data in enumerate(self._read(), start=1):
            if data is None:
                yield None
            elif data.strip():
                yield parse_line(number, data)

    def _read(self) -> Iterator[bytes | None]:
        if self._path == STANDARD_STREAM:
            yield from _as_they_come(sys.stdin.buffer)
        else:
            with open(self._path, "rb") as file:
                yield from file


def _as_they_come(stream: Iterable[bytes]) -> Iterator[bytes | None]:
    """Lines of a pipe, read ahead by another thread; None if there is none yet."""
    lines: queue.Queue[bytes | None] = queue.Queue(maxsize=64)

    def read() -> None:
        for line in stream:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=WAIT_SECONDS)
        except queue.Empty:
            yield None
            continue
        if line is None:
            return
        yield line


def _count_lines(path: Path) -> int | None:
    """Lines of a regular file; None for others, which can be read once only."""
    if not stat.S_ISREG(path.stat().st_mode):
        return None
    count, last = 0, b"\n"
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            count += piece.count(b"\n")
            last = piece[-1:]
    return count + (last != b"\n")


class BatchOutput:
    """Where texts go; of a file that is there already, the ids are ``done``."""

    def __init__(self, path: str, *, retry_errors: bool) -> None:
        self.done = LineIds()
        self._path = Path(path)
        self._synced = time.monotonic()
        self._is_file = False
        if path == STANDARD_STREAM:
            self._file: BinaryIO = sys.stdout.buffer
            return
        if self._path.exists() and not self._path.is_file():
            self._file = self._path.open("wb", buffering=0)
            return
        self._is_file = True
        self._file = self._path.open("a+b", buffering=0)
        if not try_lock(self._file.fileno()):
            raise click.ClickException(f"{path}: another process is writing to it")
        self._recover()
        if retry_errors:
            self._drop_errors()
        self._read_ids()

    def write(self, line: dict[str, Any]) -> None:
        """A whole line: it outlives the process at once, and the machine within a second."""
        data = json.dumps(line, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        with named_writes(self._path) if self._is_file else nullcontext():
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) :]
            self._file.flush()
        if self._is_file and time.monotonic() - self._synced > SYNC_SECONDS:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def close(self) -> None:
        """Bring all to the disk; a file without a line goes."""
        is_empty = False
        if self._is_file:
            os.fsync(self._file.fileno())
            is_empty = self._file.seek(0, os.SEEK_END) == 0
        if self._file is not sys.stdout.buffer:
            self._file.close()
        if is_empty:
            self._path.unlink(missing_ok=True)

    def _lines(self) -> Iterator[tuple[dict[str, Any], bytes]]:
        """All whole lines; ClickException for one that no batch has written."""
        self._file.seek(0)
        with self._path.open("rb") as file:
            for number, data in enumerate(file, start=1):
                try:
                    content = json.loads(data)
                except (ValueError, RecursionError):
                    content = None
                if not isinstance(content, dict) or "id" not in content:
                    raise click.ClickException(
                        f"{self._path}: line {number} is no output of a batch; choose another file"
                    )
                yield content, data

    def _recover(self) -> None:
        """Drop a last line that was torn when the process or the machine ended."""
        start = self._last_line_start()
        size = self._file.seek(0, os.SEEK_END)
        if start == size:
            return
        self._file.seek(start)
        torn = self._file.read(1 << 26)
        if not torn.startswith(LINE_START[: len(torn)]):
            raise click.ClickException(f"{self._path} is no output of a batch; choose another file")
        try:
            json.loads(torn)
        except (ValueError, RecursionError):
            self._file.truncate(start)
        else:
            self._file.write(b"\n")

    def _last_line_start(self) -> int:
        """Where what follows the last line break begins."""
        place = self._file.seek(0, os.SEEK_END)
        while place > 0:
            first = max(0, place - (1 << 16))
            self._file.seek(first)
            found = self._file.read(place - first).rfind(b"\n")
            if found >= 0:
                return first + found + 1
            place = first
        return 0

    def _drop_errors(self) -> None:
        """Write the file anew without the lines that are errors, so that they run again."""
        if not any("error" in content for content, _ in self._lines()):
            return
        with replaced_file(self._path) as file:
            for content, data in self._lines():
                if "error" not in content:
                    file.write(data)
        self._file.close()
        self._file = self._path.open("a+b", buffering=0)
        if not try_lock(self._file.fileno()):
            raise click.ClickException(f"{self._path}: another process is writing to it")

    def _read_ids(self) -> None:
        for content, _ in self._lines():
            self.done.add(content["id"])
