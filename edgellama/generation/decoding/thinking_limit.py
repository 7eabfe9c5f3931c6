"""Thinking that has become too long is closed, token by token, so that the answer comes.

``text_assembly`` counts the tokens of thinking, and ``token_choice`` chooses all others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgellama.text.reasoning.expected import Mark, encoded_parts

if TYPE_CHECKING:
    from edgellama.generation.decoding.text_assembly import TextAssembly
    from edgellama.text.reasoning.expected import ExpectedReasoning
    from edgellama.text.tokenizer import Tokenizer


class ThinkingLimit:
    """Knows what comes in one text instead of more thinking than ``max_tokens``."""

    def __init__(self, tokenizer: Tokenizer, expected: ExpectedReasoning, max_tokens: int) -> None:
        self._closing = encoded_parts(tokenizer, expected.marks, ("\n", Mark.CLOSING))
        self._max_tokens = max_tokens
        self._num_closed = 0

    def token(self, assembly: TextAssembly) -> int | None:
        """The token that must come next; None if the model may choose."""
        if not assembly.is_thinking:
            self._num_closed = 0
            return None
        is_closing = self._num_closed or assembly.num_reasoning_tokens >= self._max_tokens
        if not is_closing or self._num_closed == len(self._closing):
            return None
        self._num_closed += 1
        return self._closing[self._num_closed - 1]


def thinking_limit(tokenizer: Tokenizer, expected: ExpectedReasoning) -> ThinkingLimit | None:
    """The limit of a text; None if there is none."""
    if expected.max_tokens is None:
        return None
    return ThinkingLimit(tokenizer, expected, expected.max_tokens)
