"""Paints lines at the foot of a terminal again and again, without flicker.

Only differences are written. Lines that are committed stay for ever, also in the terminal's
scrollback. The callers know what the lines say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import terminal_size
from typing import TextIO

from edgellama.quant.records import dataclass

NO_WRAP, WRAP = "\x1b[?7l", "\x1b[?7h"
ERASE_LINE_END, ERASE_BELOW = "\x1b[K", "\x1b[J"


@dataclass(frozen=True)
class Line:
    """A line with its escape sequences, and how many columns it takes."""

    text: str
    num_columns: int


class Painter:
    """The lines that were painted last; the cursor stands behind the last of them."""

    def __init__(self, stream: TextIO, size: Callable[[], terminal_size]) -> None:
        self._stream = stream
        self._size = size
        self._lines: list[Line] = []
        self._columns = size().columns

    @property
    def width(self) -> int:
        """Columns that a line may take: one less than there are, so that none fills its row."""
        return max(1, self._size().columns - 1)

    def paint(self, lines: Sequence[Line]) -> None:
        """Put ``lines`` in the place of those painted last."""
        columns, rows = self._size()
        old = self._lines
        written: list[str] = []
        if columns != self._columns:
            written.append(self._erase_all(columns))
            old, self._columns = [], columns
        # Lines above the screen cannot be reached any more.
        first = max(_num_equal(old, lines), len(old) - rows)
        if first < len(old):
            written.append(self._rewrite(old, lines, first))
        elif first < len(lines):
            before = "\r\n" if old else ""
            written.append(before + "\r\n".join(line.text for line in lines[first:]))
        self._lines = list(lines)
        if any(written):
            self._write("".join(written))

    def commit(self, lines: Sequence[Line]) -> None:
        """Paint ``lines`` for the last time, and end them with a line break."""
        self.paint(lines)
        if lines:
            self._write("\r\n")
        self._lines = []

    def _rewrite(self, old: Sequence[Line], lines: Sequence[Line], first: int) -> str:
        """From line ``first`` on, each over what stands there."""
        if first == len(old) - 1 < len(lines) and lines[first].text.startswith(old[first].text):
            text = lines[first].text[len(old[first].text) :]
            return "\r\n".join([text, *(line.text for line in lines[first + 1 :])])
        up = len(old) - 1 - first
        move = (f"\x1b[{up}A" if up else "") + "\r"
        new = (line.text + ERASE_LINE_END for line in lines[first:])
        erase = ERASE_BELOW if len(lines) < len(old) else ""
        if first >= len(lines):
            # No line is left from ``first`` on: the cursor goes back behind the line before.
            back = f"\x1b[A\x1b[{lines[-1].num_columns + 1}G" if lines else ""
            return move + erase + back
        return move + "\r\n".join(new) + erase

    def _erase_all(self, columns: int) -> str:
        """Take away what the terminal has made of the lines after its width has changed."""
        num_rows = sum(max(1, -(-line.num_columns // columns)) for line in self._lines)
        up = num_rows - 1
        return (f"\x1b[{up}A" if up > 0 else "") + "\r" + ERASE_BELOW

    def _write(self, text: str) -> None:
        self._stream.write(f"{NO_WRAP}{text}{WRAP}")
        self._stream.flush()


def _num_equal(old: Sequence[Line], new: Sequence[Line]) -> int:
    """How many leading lines are the same."""
    pairs = zip(old, new, strict=False)
    same = (index for index, (one, other) in enumerate(pairs) if one != other)
    return next(same, min(len(old), len(new)))
