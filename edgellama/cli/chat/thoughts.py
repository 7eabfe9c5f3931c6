"""What a model thinks before a reply, painted dimmed and line by line while it comes.

Whole lines stay; the last one is painted again. ``reply_view`` decides when to stop.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from edgellama.cli.chat.painter import Line, Painter
from edgellama.cli.output.terminal import printable

PAINT_SECONDS = 0.04
"""Least pause between two paintings."""


class PaintedThoughts:
    """Thinking on a terminal; ``lines_of`` makes lines of a text for so many columns."""

    def __init__(self, painter: Painter, lines_of: Callable[[str, int], list[Line]]) -> None:
        self._painter = painter
        self._lines_of = lines_of
        self._open = ""
        self._painted = 0.0
        self.is_begun = False

    def add(self, text: str) -> None:
        """Paint the text, unless the last time is only just past."""
        self.is_begun = True
        self._open += printable(text)
        if monotonic() - self._painted >= PAINT_SECONDS:
            self.paint()

    def paint(self) -> None:
        """Paint the lines so far."""
        whole, line_break, self._open = self._open.rpartition("\n")
        if line_break:
            self._painter.commit(self._lines(whole))
        self._painter.paint(self._lines(self._open) if self._open else [])
        self._painted = monotonic()

    def end(self) -> bool:
        """Leave all of it above the reply; whether there was any."""
        was_begun, self.is_begun = self.is_begun, False
        if was_begun:
            self.paint()
            self._painter.commit(self._lines(self._open) if self._open else [])
            self._open = ""
        return was_begun

    def _lines(self, text: str) -> list[Line]:
        return self._lines_of(text, self._painter.width)
