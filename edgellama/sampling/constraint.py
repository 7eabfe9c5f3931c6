"""Choosing among the tokens that a constraint allows.

This module knows neither where a constraint comes from, nor how a token is chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from edgellama.sampling.filters import Logits, Mask
from edgellama.sampling.sampler import Sampler


class Constraint(Protocol):
    """The rule that one text follows, and how far the text has come.

    End tokens are tokens like others here: they may come where the text may end.
    """

    @property
    def is_complete(self) -> bool:
        """Whether the text may end here."""
        ...

    @property
    def is_finished(self) -> bool:
        """Whether the text may end here and nothing may follow."""
        ...

    def allows(self, token: int) -> bool:
        """Whether a token may come next."""
        ...

    def mask(self) -> Mask:
        """Bool by token: what may come next. No token at all, if the text has no way on."""
        ...

    def forced(self) -> list[int]:
        """Tokens that must come next in any case; none if there is a choice."""
        ...

    def advance(self, token: int) -> None:
        """Note an allowed token, other than an end token, as the text's next one."""
        ...

    def rollback(self, num_tokens: int) -> None:
        """Take the last tokens back."""
        ...


def allowed_token(
    sampler: Sampler,
    logits: Logits,
    history: Sequence[int],
    constraint: Constraint,
    allowed: Mask | None = None,
) -> int | None:
    """The token that a sampler chooses among those allowed; None if there are none.

    ``allowed`` (vocab_size,): which tokens others allow; None is all of them. All that is refused
    is ruled out before anything else, so filters keep as many tokens as they always do. A choice
    among all tokens, repeated where it is refused, would favour likely ones.
    """
    forced = constraint.forced()
    if forced and (allowed is None or allowed[forced[0]]):
        return forced[0]
    possible = np.zeros(len(logits), np.bool_)
    mask = constraint.mask()[: len(logits)]
    possible[: len(mask)] = mask
    if allowed is not None:
        possible &= allowed
    return sampler(logits, history, possible) if possible.any() else None
