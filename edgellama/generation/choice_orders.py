"""Orders for a text whose tokens are chosen where its logits are computed, on another machine.

Chance is drawn here, so the tokens are those that a choice here would give. What an order cannot
say (functions of users, forms, learning samplers) has its logits sent instead.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from edgellama.sampling.choice_order import ChoiceOrder, SamplerPlan

if TYPE_CHECKING:
    from edgellama.generation.text_request import Request
    from edgellama.sampling.sampler import Sampler

_NUMBERS = itertools.count(1)


def is_orderable(request: Request) -> bool:
    """Whether nothing of a request, but perhaps the form of its answer, needs logits here."""
    needs_logits = (
        request.processors,
        request.sampler is not None,
        request.logprobs is not None,
        request.prompt_logprobs is not None,
        request.banned,
        request.sampling.mirostat,
    )
    return not any(needs_logits)


class ChoiceOrders:
    """Those of one text."""

    def __init__(
        self,
        request: Request,
        sampler: Sampler,
        end_tokens: frozenset[int],
        bias: Mapping[int, float],
        breaks: Callable[[int], bool],
    ) -> None:
        """``sampler``: the one that would choose here; the rest is what it was made of."""
        options = request.sampling
        self._sampler = sampler
        self._breaks = breaks if options.dry_multiplier else None
        self._breaking: frozenset[int] = frozenset()
        self._num_seen = 0
        self._plan = SamplerPlan(
            next(_NUMBERS),
            replace(options, logit_bias=None, seed=None, dry_breakers=()),
            end_tokens,
            request.stop_tokens,
            bias,
            len(request.prompt),
            () if options.penalize_prompt else tuple(request.own_tokens),
        )
        self._note_breaking(self._plan.own_tokens)

    def order(self, history: Sequence[int], draft: Sequence[int]) -> ChoiceOrder:
        """A token for the end of ``history`` and for each of the guesses behind it."""
        self._note_breaking([*history[self._num_seen :], *draft])
        self._num_seen = len(history)
        size = self._sampler.num_chances
        chances = self._sampler.chance.ahead(size * (len(draft) + 1))
        rows = (chances[start : start + size] for start in range(0, len(chances), size or 1))
        return ChoiceOrder(self._plan, tuple(rows) or ((),) * (len(draft) + 1), self._breaking)

    def taken(self, token: int) -> int:
        """The token of an order, whose chances are used up with it."""
        for _ in range(self._sampler.num_chances):
            self._sampler.chance.random()
        return token

    def _note_breaking(self, tokens: Sequence[int]) -> None:
        if self._breaks is not None:
            new = {token for token in tokens if self._breaks(token)}
            if not new <= self._breaking:
                self._breaking |= new
