"""An engine that goes on with a reply, however its tokens came about, for texts under constraints.

A ScriptedEngine counts steps, but a step may bring several tokens there.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from reference.numpy_llama import Cancellable
from reference.scripted_engine import Array, ScriptedEngine


class ReplyingEngine(ScriptedEngine):
    """Behind the last ``opening`` of the tokens so far, makes the reply's next token the likeliest.

    ``replies`` are given one after the other, each to the next prompt; a callable is asked for
    the whole row of logits instead.
    """

    def __init__(
        self,
        replies: Sequence[Sequence[int] | Callable[[int], Array]],
        opening: Sequence[int],
        vocab_size: int,
        *,
        context_length: int = 4096,
    ) -> None:
        super().__init__([], vocab_size, context_length=context_length)
        self._replies = list(replies)
        self._opening = list(opening)
        self._start = -1

    def forward(
        self,
        tokens: Sequence[int],
        cache: Any,
        *,
        logits: Literal["last", "all", "next", "none"] = "last",
        cancelled: Cancellable | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Array:
        """Logits of the last position."""
        self.forwarded.append(list(tokens))
        cache.tokens += tokens
        start = self._behind_opening(cache.tokens)
        if start != self._start and self._start >= 0:
            self._replies.pop(0)
        self._start = start
        reply = self._replies[0]
        num_said = len(cache.tokens) - start
        if callable(reply):
            return reply(num_said)[np.newaxis]
        row = np.ones((1, self.config.vocab_size), dtype=np.float32)
        row[0, reply[min(num_said, len(reply) - 1)]] = 50.0
        return row

    def _behind_opening(self, tokens: Sequence[int]) -> int:
        size = len(self._opening)
        places = range(len(tokens) - size, -1, -1)
        return next(
            place + size for place in places if tokens[place : place + size] == self._opening
        )
