"""Log-probabilities of a prompt, computed where its logits are: a few numbers a token come back.

The logits of a prompt are half a gigabyte for a thousand tokens. This module knows neither the
texts nor how the token after the prompt is chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from edgellama.quant.records import dataclass
from edgellama.sampling.choice_order import UNCHOSEN, ChoiceOrder
from edgellama.sampling.logprobs import TokenShare, row_width

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ShareOrder:
    """Tell of the tokens from position ``start`` on how probable those that follow them are.

    ``next_tokens`` (n,) follow them, and of each so many of the likeliest are told. What comes
    behind these is chosen as ``choice`` says. Every row has ``width`` numbers, of which a token's
    share takes the first ``share_width``.
    """

    start: int
    next_tokens: npt.NDArray[np.int32]
    num_alternatives: int
    share_width: int
    width: int
    choice: ChoiceOrder | None = None

    @classmethod
    def of(
        cls,
        start: int,
        next_tokens: npt.NDArray[np.int32],
        num_alternatives: int,
        choice: ChoiceOrder | None,
        vocab_size: int,
    ) -> ShareOrder:
        """With room for what is told of each token, and of the one that is chosen."""
        width = share_width = row_width(num_alternatives, vocab_size)
        if choice is not None:
            width = max(width, row_width(choice.plan.num_alternatives, vocab_size))
        return cls(start, next_tokens, num_alternatives, share_width, width, choice)

    def between(self, first: int, last: int) -> ShareOrder:
        """The same for the tokens from position ``first`` to before ``last`` alone."""
        begin, end = first - self.start, last - self.start
        choice = self.choice if end > len(self.next_tokens) else None
        return replace(self, start=first, next_tokens=self.next_tokens[begin:end], choice=choice)

    def rows(self, logits: Floats, choose: Callable[[ChoiceOrder, Floats], Floats]) -> Floats:
        """What is told by ``logits`` (n or n + 1, vocab_size), a row of each."""
        found = np.zeros((len(logits), self.width), np.float32)
        for row, own, token in zip(found, logits, self.next_tokens.tolist(), strict=False):
            row[: self.share_width] = TokenShare.by(own, token, self.num_alternatives).row()
        if len(logits) > len(self.next_tokens):
            found[-1] = UNCHOSEN
            if self.choice is not None:
                chosen = choose(self.choice, logits[-1:])
                found[-1, : chosen.shape[1]] = chosen
        return found

    def share_in(self, row: Floats) -> TokenShare:
        """What a row tells of a token."""
        return TokenShare.from_row(row[: self.share_width])


def choice_of(order: ChoiceOrder | ShareOrder | None) -> ChoiceOrder | None:
    """How the token behind the last one is chosen."""
    return order.choice if isinstance(order, ShareOrder) else order
