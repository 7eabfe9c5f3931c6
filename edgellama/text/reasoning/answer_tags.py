"""Takes away the tags between which some models put the answer behind their thinking.

The text may come in pieces of any size. Where thinking ends is left to ``splitter``.
"""

from __future__ import annotations

from edgellama.text.stop_strings import num_begun


class AnswerTags:
    """Takes pieces of an answer, and gives them without its tags and the white space beside these.

    An answer that does not begin with the opening tag stays as it is, and so does a closing tag
    with words behind it.
    """

    def __init__(self, tags: tuple[str, str]) -> None:
        self._opening, self._closing = tags
        self._is_begun, self._is_tagged, self._is_fresh = False, False, True
        self._held = ""

    def feed(self, text: str) -> str:
        """What is certain after the next piece."""
        self._held += text
        if not self._is_begun:
            begun = self._held.lstrip()
            self._is_tagged = begun.startswith(self._opening)
            if not self._is_tagged and self._opening.startswith(begun):
                return ""
            self._is_begun = True
            self._held = begun.removeprefix(self._opening) if self._is_tagged else self._held
        if not self._is_tagged:
            told, self._held = self._held, ""
            return told
        if self._is_fresh:
            self._held = self._held.lstrip()
            self._is_fresh = not self._held
        end = self._held.rstrip()
        if not end.endswith(self._closing):
            end = self._held
            num_held = num_begun(end, (self._closing,))
        else:
            num_held = len(self._closing)
        told = end[: len(end) - num_held].rstrip()
        self._held = self._held[len(told) :]
        return told

    def finish(self) -> str:
        """What was held back, when no more text will come."""
        held, self._held = self._held, ""
        return "" if self._is_tagged and held.strip() == self._closing else held
