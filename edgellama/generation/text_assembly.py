"""The text of one generation as its tokens come: whole characters, up to a stop string.

It knows neither where tokens come from nor what else ends a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgellama.text.tokenizer import StopStrings, StreamingDetokenizer

if TYPE_CHECKING:
    from edgellama.text.tokenizer import Tokenizer


class TextAssembly:
    """Tokens in, text out; what may still become a stop string is held back."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop: Sequence[str],
        *,
        continuation: bool,
        min_tokens: int = 0,
    ) -> None:
        """``continuation``: the text carries on another, so a leading space is kept.

        Stop strings do not count in the text of the first ``min_tokens``.
        """
        self._num_unstopped = min_tokens
        self._stops = StopStrings(stop)
        self._detokenizer = StreamingDetokenizer(tokenizer, continuation=continuation)
        self._texts: list[str] = []

    @property
    def matched_stop(self) -> str | None:
        """The stop string that was reached."""
        return self._stops.matched

    @property
    def text(self) -> str:
        """All text that was given out."""
        return "".join(self._texts)

    def add(self, token: int) -> tuple[str, bool]:
        """The text that is certain now, and whether a stop string has been reached."""
        text, is_stopped = self._detokenizer.add(token), False
        if self._num_unstopped:
            self._num_unstopped -= 1
        else:
            text, is_stopped = self._stops.feed(text)
        self._texts.append(text)
        return text, is_stopped

    def finish(self) -> tuple[str, bool]:
        """Text that was still held back at the end, and whether it has reached a stop string."""
        text, is_stopped = self._stops.feed(self._detokenizer.finish())
        text += self._stops.flush()
        self._texts.append(text)
        return text, is_stopped
