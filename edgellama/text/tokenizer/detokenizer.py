"""Tokens to text one at a time, never half a character.

It holds back the bytes of an unfinished character until the next token. The tokenizer knows a
token's bytes.
"""

from __future__ import annotations

import codecs
from collections.abc import Collection
from typing import TypeAlias

from edgellama.text.surrogates import replace_surrogates
from edgellama.text.tokenizer.base import Tokenizer

DetokenizerState: TypeAlias = "tuple[bool, tuple[bytes, int]]"
"""What a detokenizer remembers of the tokens so far."""


def is_inside_character(state: DetokenizerState) -> bool:
    """Whether bytes of a character have come, but not all."""
    return bool(state[1][0])


class StreamingDetokenizer:
    """Text of a growing list of tokens; the parts joined equal ``decode`` of the whole list."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        skip_special: bool = True,
        continuation: bool = False,
        shown: Collection[int] = (),
    ) -> None:
        """``continuation``: the tokens carry on a text, so a first space is kept.

        ``shown``: control tokens that are not skipped.
        """
        self._tokenizer = tokenizer
        self._shown = frozenset(shown)
        self._skip_special = skip_special
        self._at_start = not continuation
        self._decoder = codecs.getincrementaldecoder("utf-8")(tokenizer.decode_errors)

    @property
    def state(self) -> DetokenizerState:
        """What it remembers; assigned again, it forgets the tokens since."""
        return self._at_start, self._decoder.getstate()

    @state.setter
    def state(self, state: DetokenizerState) -> None:
        self._at_start, of_decoder = state
        self._decoder.setstate(of_decoder)

    def add(self, token: int) -> str:
        """The text that is certain once this token is there; often empty inside a character."""
        skips = self._skip_special and token not in self._shown
        if self._at_start:
            data, self._at_start = self._tokenizer.opening_bytes(token, skip_special=skips)
        else:
            data = self._tokenizer.token_bytes(token, skip_special=skips)
        ended = ""
        if self._tokenizer.controls_end_characters and self._tokenizer.is_control(token):
            ended = self.finish()
        return ended + replace_surrogates(self._decoder.decode(data))

    def finish(self) -> str:
        """U+FFFD for a character that was never finished, else nothing."""
        return replace_surrogates(self._decoder.decode(b"", final=True))
