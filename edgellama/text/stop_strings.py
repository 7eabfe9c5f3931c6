"""Finds stop strings in streamed text, also across several tokens.

It sees only text. It holds back what may still become a stop string, and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgellama.quant.errors import InvalidOptionError


class StopStrings:
    """Passes text through up to the stop string that is complete first.

    Among stop strings complete at the same character the longest counts, so that the text
    passed through does not depend on how it was cut into parts. ``matched`` is the one that
    ended the text.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """InvalidOptionError for an empty stop string, or a bare string instead of several."""
        if isinstance(stops, str) or not all(isinstance(s, str) and s for s in stops):
            raise InvalidOptionError(f"stop strings {stops!r}; a list of strings, none empty")
        self._stops = tuple(stops)
        self._held = ""
        self.matched: str | None = None

    def feed(self, text: str) -> tuple[str, bool]:
        """Text that may be shown now, and whether a stop string has been reached."""
        if not self._stops:
            return text, False
        if self.matched is not None:
            return "", True
        pending = self._held + text
        found = [
            (start + len(stop), start, stop)
            for stop in self._stops
            if (start := pending.find(stop)) >= 0
        ]
        if found:
            _, start, self.matched = min(found)
            self._held = ""
            return pending[:start], True
        keep = num_begun(pending, self._stops)
        self._held = pending[len(pending) - keep :]
        return pending[: len(pending) - keep], False

    def flush(self) -> str:
        """What was held back, when no more text will come."""
        held, self._held = self._held, ""
        return held


def num_begun(text: str, strings: Sequence[str]) -> int:
    """Length of the longest end of the text with which one of the strings begins."""
    longest = max(map(len, strings), default=0)
    for length in range(min(len(text), longest - 1), 0, -1):
        if any(string.startswith(text[-length:]) for string in strings):
            return length
    return 0
