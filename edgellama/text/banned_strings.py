"""Finds strings that a text must not contain, and text that may still become one.

It sees only text. ``generation.decoding`` goes back to the token at which one began.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgellama.text.stop_strings import num_begun


class BannedStrings:
    """Finds strings, exactly as they are written, in text that grows."""

    def __init__(self, banned: Sequence[str]) -> None:
        """``banned``: none of them empty."""
        self._banned = tuple(banned)

    def __bool__(self) -> bool:
        return bool(self._banned)

    def start(self, text: str) -> int | None:
        """Where the first one begins that stands in the text; None if there is none."""
        found = [place for banned in self._banned if (place := text.find(banned)) >= 0]
        return min(found, default=None)

    def num_possible(self, text: str) -> int:
        """Length of the longest end of the text with which a banned string begins."""
        return num_begun(text, self._banned)
