"""A terminal's screen in memory: what it shows of the few sequences that the chat writes."""

from __future__ import annotations

import io
import re
from os import terminal_size

from rich.cells import cell_len

_PIECE = re.compile(r"\x1b\[(\??)(\d*)([A-Za-z])|([\r\n])|([^\x1b\r\n])")


class Screen(io.StringIO):
    """Rows that scroll into ``scrollback``; sequences that it does not know are an error."""

    def __init__(self, columns: int, rows: int) -> None:
        super().__init__()
        self.columns, self.num_rows = columns, rows
        self.scrollback: list[str] = []
        self._rows: list[list[str]] = [[]]
        self._row = self._column = 0
        self.wraps = True

    def isatty(self) -> bool:
        """It is a terminal."""
        return True

    def size(self) -> terminal_size:
        """Columns and rows."""
        return terminal_size((self.columns, self.num_rows))

    def lines(self) -> list[str]:
        """All lines, those that scrolled away first, without trailing blanks."""
        rows = ["".join(row).rstrip() for row in self._rows]
        while rows and not rows[-1]:
            rows.pop()
        return [*self.scrollback, *rows]

    def write(self, text: str) -> int:
        """Obey a text."""
        position = 0
        while position < len(text):
            found = _PIECE.match(text, position)
            assert found is not None, repr(text[position:])
            position = found.end()
            self._obey(*found.groups())
        return len(text)

    def _obey(self, private: str, number: str, letter: str, control: str, character: str) -> None:
        if character:
            self._put(character)
        elif control == "\r":
            self._column = 0
        elif control == "\n":
            self._down()
        elif private:
            assert (number, letter) in (("7", "l"), ("7", "h"))
            self.wraps = letter == "h"
        else:
            self._sequence(letter, int(number or 0))

    def _sequence(self, letter: str, number: int) -> None:
        row = self._rows[self._row]
        if letter == "A":
            assert self._row >= max(1, number), "the cursor would leave the screen"
            self._row -= max(1, number)
        elif letter == "G":
            self._column = max(1, number) - 1
        elif letter in "KJ":
            del row[self._column :]
            if letter == "J":
                del self._rows[self._row + 1 :]
        else:
            assert letter == "m"

    def _put(self, character: str) -> None:
        width = cell_len(character)
        assert self._column + width <= self.columns, "the line is too long"
        row = self._rows[self._row]
        row.extend(" " * (self._column - len(row)))
        row[self._column : self._column + width] = [character, *[""] * (width - 1)]
        self._column += width

    def _down(self) -> None:
        self._row += 1
        if self._row == len(self._rows):
            self._rows.append([])
        if len(self._rows) > self.num_rows:
            self.scrollback.append("".join(self._rows.pop(0)).rstrip())
            self._row -= 1
