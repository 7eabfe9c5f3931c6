"""A bounds-checked cursor over a mapped file: the only place that reads header bytes.

It knows little-endian integers, byte strings with their length in front, and where reading must
stop. ``metadata`` and ``tensors`` know what the bytes mean. The bytes are read from the file, not
through the mapping, because a file that is cut meanwhile would end the process there.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

from edgellama.quant.error_text import INCOMPLETE, file_error, shown
from edgellama.quant.errors import ModelFileError
from edgellama.quant.gguf.strings import PREFIX_BYTES, StringArray, string_ends
from edgellama.quant.mapped_file import CAN_READ_AT, FileMapping

WINDOW_BYTES = 1 << 16
"""What is read at once, of which small items are taken."""


class Cursor:
    """Reads forward through ``buffer``; nothing is read or allocated past ``limit`` bytes."""

    def __init__(self, path: Path, mapping: FileMapping, limit: int) -> None:
        self.path = path
        self.limit = limit
        self.position = 0
        self._mapping = mapping
        self._window, self._window_start = b"", 0

    def error(self, what: str, allowed: str) -> ModelFileError:
        """A ModelFileError that names this file."""
        return file_error(self.path, what, allowed)

    def take(self, num_bytes: int, what: str) -> bytes:
        """The next ``num_bytes`` bytes; ModelFileError naming ``what`` if they are not there."""
        start = self.position
        if num_bytes > self.limit - start:
            raise self.error(
                f"{what} runs past the end, {num_bytes} bytes at offset {start}",
                f"the header ends by byte {self.limit}{self._note_of_the_end()}",
            )
        self.position = end = start + num_bytes
        if end > self._window_start + len(self._window):
            if num_bytes >= WINDOW_BYTES:
                return self.read(start, end)
            self._window_start = start
            self._window = self.read(start, min(start + WINDOW_BYTES, self.limit))
        return self._window[start - self._window_start : end - self._window_start]

    def read(self, start: int, end: int) -> bytes:
        """Bytes of the file, wherever the cursor is; ModelFileError if they are not there."""
        if not CAN_READ_AT:
            return self._mapping[start:end]
        try:
            found = self._mapping.read_at(start, end - start)
        except OSError as error:
            raise self.error(f"cannot be read, {error}", "a readable file") from error
        if len(found) < end - start:
            raise self.error(
                f"was cut to {self._mapping.size()} bytes while it was read",
                f"the {len(self._mapping)} bytes that it had",
            )
        return found

    def unsigned32(self, what: str) -> int:
        """The next little-endian uint32."""
        return int.from_bytes(self.take(4, what), "little")

    def unsigned64(self, what: str) -> int:
        """The next little-endian uint64."""
        return int.from_bytes(self.take(8, what), "little")

    def numbers(self, kinds: struct.Struct, what: str) -> tuple[int, ...]:
        """The next little-endian integers of these kinds."""
        return kinds.unpack(self.take(kinds.size, what))

    def count(self, what: str, item_bytes: int, maximum: int = sys.maxsize) -> int:
        """The next uint64 as a number of items of at least ``item_bytes`` that must still fit."""
        number = self.unsigned64(what)
        room = min(maximum, (self.limit - self.position) // item_bytes)
        if number > room:
            note = self._note_of_the_end() if number <= maximum else ""
            raise self.error(f"{what} is {number}", f"at most {room} here{note}")
        return number

    def _note_of_the_end(self) -> str:
        """What to do where the file itself ends too early, and not what may be a header."""
        return f"; {INCOMPLETE}" if self.limit == len(self._mapping) else ""

    def string(self, what: str) -> bytes:
        """The next length-prefixed byte string."""
        return self.take(self.unsigned64(f"the length of {what}"), what)

    def name(self, what: str, max_bytes: int) -> str:
        """The next string as a key or a tensor name: printable UTF-8 of 1 to ``max_bytes`` bytes.

        Printable, because names go to terminals and logs.
        """
        num_bytes = self.unsigned64(f"the length of {what}")
        if not 1 <= num_bytes <= max_bytes:
            raise self.error(f"the length of {what} is {num_bytes}", f"1 to {max_bytes} bytes")
        raw = self.take(num_bytes, what)
        try:
            name = raw.decode("utf-8")
        except UnicodeDecodeError:
            name = ""
        if not name.isprintable() or not name:
            raise self.error(f"{what} is {shown(raw)}", "printable UTF-8")
        return name

    def strings(self, what: str) -> StringArray:
        """The next array of strings after its length: their extents are checked, not their text."""
        count = self.count(f"the length of {what}", PREFIX_BYTES)
        start = self.position
        ends = string_ends(_Rest(self), count)
        self.position = start + (ends[-1] if ends else 0)
        if len(ends) < count:
            self.string(f"string {len(ends)} of {count} in {what}")
        return StringArray(self.read(start, self.position), ends)


class _Rest:
    """What lies behind a cursor's position, read piece by piece."""

    def __init__(self, cursor: Cursor) -> None:
        self._cursor, self._start = cursor, cursor.position

    def __len__(self) -> int:
        return self._cursor.limit - self._start

    def __getitem__(self, piece: slice) -> bytes:
        start, end, _ = piece.indices(len(self))
        return self._cursor.read(self._start + start, self._start + max(start, end))
