"""Divides a growing reply into its text, which is shown as it comes, and its calls, which are not.

Text is held back only while a call may begin there. This module sees text, not tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from edgellama.quant.records import dataclass
from edgellama.text.stop_strings import num_begun
from edgellama.tools.call_pieces import CallPiece, CallPieces
from edgellama.tools.forms import CallForm
from edgellama.tools.reading import CLOSING_TAG, ReadCall, Reading, read_calls

if TYPE_CHECKING:
    from edgellama.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class ExpectedCalls:
    """The calls that a reply may have: their form, and the names of the tools that there are."""

    form: CallForm
    names: frozenset[str]

    def splitter(self) -> CallSplitter:
        """One for a new reply."""
        return CallSplitter(self.form, self.names)

    def marks(self, tokenizer: Tokenizer) -> Mapping[str, int]:
        """The marks of the form that are control tokens of a vocabulary, which have no text."""
        found = {text: tokenizer.split_special(text) for text in (self.form.mark, CLOSING_TAG)}
        ids = {text: parts[0] for text, parts in found.items() if len(parts) == 1}
        return {
            text: token
            for text, token in ids.items()
            if isinstance(token, int) and tokenizer.is_control(token)
        }


class CallSplitter:
    """Takes the text of one reply, and gives text to show, and calls at the end.

    Example:
        >>> from edgellama.tools.call_splitter import CallSplitter
        >>> from edgellama.tools.forms import FORMS
        >>> splitter = CallSplitter(FORMS["tagged"], ["now"])
        >>> splitter.feed("Wait. <tool"), splitter.feed('_call>{"name": "now", "arguments": {}}')
        ('Wait. ', '')
        >>> splitter.finish(), splitter.calls
        ('', (ReadCall(name='now', arguments={}, id=None),))
    """

    def __init__(self, form: CallForm, names: Collection[str]) -> None:
        """``names``: the tools that there are."""
        self._form = form
        self._names = frozenset(names)
        self._opening: Any = None
        if form.opening is not None and names:
            pattern = f"(?:{form.opening(names)})(?s:.*)"
            self._opening = import_module("regex").compile(pattern)
        self._held = ""
        self._in_calls = False
        self._pieces = CallPieces(form, names)
        self._new_pieces: list[CallPiece] = []
        self.calls: tuple[ReadCall, ...] = ()

    @property
    def in_calls(self) -> bool:
        """Whether calls have begun, so that no more text will be shown before the end."""
        return self._in_calls

    def feed(self, text: str) -> str:
        """The text that is certain to be no call."""
        was_in_calls = self._in_calls
        shown = self._visible_text(text)
        if self._in_calls:
            self._new_pieces += self._pieces.feed(text if was_in_calls else self._held)
        return shown

    def take_pieces(self) -> tuple[CallPiece, ...]:
        """What has come of calls since this was asked last, as far as they can be followed."""
        pieces = tuple(self._new_pieces)
        self._new_pieces.clear()
        return pieces

    @property
    def ids(self) -> Sequence[str]:
        """Ids of the calls that were told in pieces, in their order."""
        return self._pieces.ids

    def _visible_text(self, text: str) -> str:
        if self._in_calls:
            self._held += text
            return ""
        if self._opening is not None:
            self._held += text
            found = self._opening.fullmatch(self._held, partial=True)
            if found is not None:
                self._in_calls = not found.partial
                return ""
            text, self._held, self._opening = self._held, "", None
        text = self._held + text
        end = text.find(self._form.mark)
        self._in_calls = end >= 0
        if end < 0:
            end = len(text) - num_begun(text, (self._form.mark,))
        self._held = text[end:]
        return text[:end]

    def finish(self) -> str:
        """Text that was held back and is no call after all; ``calls`` are known now."""
        held = self._held
        reading = Reading((), held)
        if self._in_calls:
            reading = read_calls(held, self._names, self._form.name)
        self._held, self.calls = "", reading.calls
        return reading.text
