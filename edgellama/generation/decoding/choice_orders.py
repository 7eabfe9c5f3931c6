"""Orders for a text whose tokens are chosen on another machine, where its logits are.

Random numbers are drawn here, so the tokens are the same as with a choice here. If an order cannot
express the choice (functions of users, learning samplers), the logits are sent instead.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from edgellama.sampling.choice_order import UNCHOSEN, ChoiceOrder, Rule, SamplerPlan, as_rule
from edgellama.sampling.logprobs import TokenShare, row_width

if TYPE_CHECKING:
    from edgellama.generation.text_request import Request
    from edgellama.sampling.constraint import Constraint
    from edgellama.sampling.filters import Logits, Mask
    from edgellama.sampling.sampler import Sampler

_NUMBERS = itertools.count(1)
"""For plans of all texts of a process: a stage that knows a number is not sent its plan again."""


def is_orderable(request: Request) -> bool:
    """Whether nothing of a request needs logits here."""
    needs_logits = (
        request.processors,
        request.sampler is not None,
        request.sampling.mirostat,
        request.reasoning is not None and request.reasoning.max_tokens is not None,
    )
    return not any(needs_logits)


class ChoiceOrders:
    """Makes the orders of one text."""

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
            request.logprobs,
        )
        self._note_breaking(self._plan.own_tokens)

    def order(
        self, history: Sequence[int], draft: Sequence[int], rules: Sequence[Rule] = ()
    ) -> ChoiceOrder:
        """A token for the end of ``history`` and for each of the guesses behind it.

        ``rules``: what each may be; where that is certain no random numbers are used up.
        """
        self._note_breaking([*history[self._num_seen :], *draft])
        self._num_seen = len(history)
        size = self._sampler.num_chances
        sizes = [0 if isinstance(rule, int) else size for rule in rules]
        sizes = sizes or [size] * (len(draft) + 1)
        chances = iter(self._sampler.chance.ahead(sum(sizes)))
        rows = tuple(tuple(itertools.islice(chances, each)) for each in sizes)
        return ChoiceOrder(self._plan, rows, self._breaking, tuple(rules))

    def chosen(self, row: Logits, vocab_size: int) -> int | TokenShare | None:
        """The token of a row that came back, with log-probabilities if they were asked for.

        None if no token could follow. Behind a prompt whose log-probabilities are told, rows are as
        long as these may be.
        """
        if row[0] == UNCHOSEN:
            return None
        num_alternatives = self._plan.num_alternatives
        if num_alternatives is None:
            return int(row[0])
        return TokenShare.from_row(row[: row_width(num_alternatives, vocab_size)])

    def taken(self) -> None:
        """Use up the chances of a token that was chosen."""
        for _ in range(self._sampler.num_chances):
            self._sampler.chance.random()

    def _note_breaking(self, tokens: Sequence[int]) -> None:
        if self._breaks is not None:
            new = {token for token in tokens if self._breaks(token)}
            if not new <= self._breaking:
                self._breaking |= new


def rules_along(
    constraint: Constraint,
    draft: Sequence[int],
    vocab_size: int,
    ends: frozenset[int],
    *,
    appends_certain: bool,
    allowed: Mask | None = None,
) -> list[Rule]:
    """What a text may go on with at its end and behind each of the guesses, for their rows.

    ``allowed`` (vocab_size,): what others than the form allow at its end; None is all of it.
    ``appends_certain``: whether what must follow a token is appended with it, so that none of its
    rows is looked at. Behind a guess that cannot be there is nothing to choose.
    """
    rules: list[Rule] = []
    certain: list[int] = []
    num_noted = 0
    try:
        for token in (*draft, None):
            forced = certain or constraint.forced()
            if forced and allowed is not None and not allowed[forced[0]]:
                forced = []
            if forced:
                rules.append(forced[0])
            else:
                mask = constraint.mask()[:vocab_size]
                mask = mask if allowed is None else mask & allowed[: len(mask)]
                rules.append(as_rule(mask, vocab_size))
            allowed = None
            is_wrong = bool(forced) and token != forced[0]
            if token is None or is_wrong or token in ends or not constraint.allows(token):
                break
            constraint.advance(token)
            num_noted += 1
            if certain:
                certain = certain[1:]
            elif appends_certain:
                certain = constraint.forced()
                if not certain and constraint.is_finished:
                    break
    finally:
        if num_noted:
            constraint.rollback(num_noted)
    return rules + [UNCHOSEN] * (len(draft) + 1 - len(rules))
