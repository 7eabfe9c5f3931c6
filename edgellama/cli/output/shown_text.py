"""Shows a text on standard output as it comes; on a terminal, also what its model thinks before it.

The commands print figures and JSON.
"""

from __future__ import annotations

import sys

from edgellama.cli.output.terminal import DimText, printable, thinking_stream


class ShownText:
    """Where the pieces of one text go: as they are into pipes, harmless on a terminal."""

    def __init__(self, *, is_silent: bool = False, hides_thinking: bool = False) -> None:
        """``is_silent``: nothing is shown, since somebody else prints the whole."""
        self._is_silent = is_silent
        seen = None if is_silent or hides_thinking else thinking_stream()
        self._thinking = None if seen is None else DimText(seen, "thinking")

    def think(self, text: str) -> None:
        """Show a piece of thinking, dimmed, if there is a terminal."""
        if self._thinking is not None:
            self._thinking.add(text)

    def write(self, text: str) -> None:
        """Write a piece of the text at once, below what was thought."""
        if self._is_silent or not text:
            return
        self.end_thinking()
        sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
        sys.stdout.flush()

    def end_thinking(self) -> None:
        """End what was thought, also where no text came."""
        if self._thinking is not None:
            self._thinking.end()
