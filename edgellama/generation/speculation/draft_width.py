"""How many tokens to guess at a time: the chance that they are right, against a step's cost.

Guesses are made only where they should save time, and only within a budget: the time that earlier
guesses have saved, and a hundredth of the time of all tokens. So no text gets more than that much
slower.
"""

from __future__ import annotations

from collections.abc import Sequence

FIRST_CREDIT = 1.0
"""In steps of one token, like all that is on account."""
CREDIT_PER_TOKEN = 0.01
LARGEST_CREDIT = 12.0
NEEDED_GAIN = 1.03
"""Tokens per time from which on guesses are worth the bother, in those of single steps."""
MEMORY = 0.93
"""Of what was learnt about a text's own repetitions, which change quickly."""
PATIENCE = 0.99
"""How much of it counts still after a token that was not guessed."""
PRIOR_WEIGHT = 3.0


class Acceptance:
    """How often guesses of one kind were right, the latest ones above all."""

    def __init__(self, prior: float, memory: float = MEMORY) -> None:
        """``memory``: how much of what was learnt counts still after another guess."""
        self._prior = prior
        self._memory = memory
        self._right = prior * PRIOR_WEIGHT
        self._guesses = PRIOR_WEIGHT

    @property
    def probability(self) -> float:
        """The probability that the next guess is right."""
        return self._right / self._guesses

    def note(self, is_right: bool) -> None:
        """One more guess, whether it was computed or only made."""
        self._right = self._right * self._memory + is_right
        self._guesses = self._guesses * self._memory + 1

    def forget(self) -> None:
        """A token came that was not guessed: what was learnt becomes a little older."""
        rest = PRIOR_WEIGHT * (1 - PATIENCE)
        self._right = self._right * PATIENCE + self._prior * rest
        self._guesses = self._guesses * PATIENCE + rest


class DraftAccount:
    """Decides how long a draft is, and keeps account of what drafts have saved and cost."""

    def __init__(self, needed_gain: float = NEEDED_GAIN) -> None:
        self._credit = FIRST_CREDIT
        self._needed_gain = needed_gain

    def width(
        self,
        probabilities: Sequence[float],
        costs: Sequence[float],
        guess_cost: float = 0.0,
        spent: float = 0.0,
    ) -> int:
        """How many tokens to guess; 0 if that would not be faster.

        ``probabilities``: of each guess, if all before it are right. ``costs``: by the number of
        tokens of a step, as far as it may have so many, with that of [1] as the unit. Each guess
        costs ``guess_cost`` itself, and all of them ``spent``.
        """
        best, most_gain = 0, self._needed_gain
        tokens = chance = 1.0
        for width, (probability, cost) in enumerate(zip(probabilities, costs[2:], strict=False), 1):
            chance *= probability
            tokens += chance
            cost += width * guess_cost + spent
            if cost - 1 > self._credit:
                break
            if tokens / cost > most_gain:
                best, most_gain = width, tokens / cost
        return best

    def settle(
        self, num_tokens: int, num_drafted: int, costs: Sequence[float], spent: float = 0.0
    ) -> None:
        """``num_tokens`` have come since a draft of ``num_drafted`` tokens, or none.

        ``spent``: what its guesses have cost themselves. Tokens that no step had to choose, since
        a constraint left no other, are not counted for the draft.
        """
        cost = num_tokens + spent
        if num_drafted:
            num_tokens = min(num_tokens, num_drafted + 1)
            cost = costs[min(num_drafted + 1, len(costs) - 1)] + spent
        credit = self._credit + num_tokens - cost + CREDIT_PER_TOKEN * num_tokens
        self._credit = min(credit, LARGEST_CREDIT)
