"""Learns from running steps how long steps of a few tokens take.

It estimates how much more several tokens cost than one, which depends on the model, the processor
and the depth of the text. Nothing runs only to be measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgellama.engine.program.step_sizes import MAX_SHORT_TOKENS

ASSUMED_SLOPE = 0.25
"""What each further token adds to a step of one, as long as no step of several has run."""
LEVEL_RATE, RATIO_RATE = 0.15, 0.1
"""How fast new times replace old ones: those of all steps, and of one number of tokens to them."""
LARGEST_CHANGE = 1.5
"""A step that was interrupted must not count as much as it took."""


class CostTable:
    """Costs of one kind of steps by their number of tokens, as multiples of a step of one."""

    def __init__(self) -> None:
        self._one_token_s = 0.0
        self._ratios: dict[int, float] = {}
        self._num_samples = [0] * (MAX_SHORT_TOKENS + 1)
        self._costs: list[float] = []

    @property
    def costs(self) -> list[float]:
        """Up to MAX_SHORT_TOKENS, with that of [1] as the unit."""
        if not self._costs:
            self._costs = self._interpolated()
        return self._costs

    @property
    def one_token_s(self) -> float:
        """Seconds of a step of one token; 0.0 while none is known."""
        return self._one_token_s

    def note(self, num_tokens: int, seconds: float) -> None:
        """A step of ``num_tokens`` took ``seconds``."""
        samples = self._num_samples[num_tokens]
        self._num_samples[num_tokens] = samples + 1
        if samples == 0:
            return  # The first one of a kind also writes its program, and loads its kernels.
        rate = 1 / samples
        if num_tokens == 1:
            if samples == 1:
                self._one_token_s = seconds
            change = _limited(seconds / self._one_token_s)
            self._one_token_s *= 1 + max(rate, LEVEL_RATE) * (change - 1)
        elif self._one_token_s:
            ratio = seconds / self._one_token_s
            known = self._ratios.get(num_tokens)
            if known is None:
                self._ratios[num_tokens] = ratio
            else:
                change = _limited(ratio / known)
                self._ratios[num_tokens] = known * (1 + max(rate, RATIO_RATE) * (change - 1))
                # The whole machine may have become slower, or the text longer.
                self._one_token_s *= 1 + LEVEL_RATE * (change - 1)
            self._costs = []

    def _interpolated(self) -> list[float]:
        """What was measured, and lines between and beyond; more tokens never cost less."""
        known = sorted({1: 1.0, **self._ratios}.items())
        costs = [0.0]
        for number in range(1, MAX_SHORT_TOKENS + 1):
            below = [point for point in known if point[0] <= number][-1]
            above = next((point for point in known if point[0] > number), None)
            if above is not None:
                slope = (above[1] - below[1]) / (above[0] - below[0])
            elif below[0] > 1:
                slope = (below[1] - 1) / (below[0] - 1)
            else:
                slope = ASSUMED_SLOPE
            cost = below[1] + slope * (number - below[0])
            costs.append(max(1.0, costs[-1], cost))
        return costs


class StepCosts:
    """Costs of steps of one sequence alone, and of several together."""

    def __init__(self, may_guess: Callable[[], bool] = lambda: True) -> None:
        """``may_guess``: whether steps that check guesses can run; asked until they can."""
        self._alone, self._together = CostTable(), CostTable()
        self._may_guess, self._is_waiting = may_guess, True
        self._num_sharing = 1

    @property
    def table(self) -> list[float]:
        """By the number of a sequence's tokens in a step; [1] is 1.0.

        It applies to as many sequences as the last step had, all with the same number of tokens, as
        far as a step of few tokens has room. While nothing may be guessed, it has only the entry
        for one token.
        """
        if self._is_waiting:
            self._is_waiting = not self._may_guess()
            if self._is_waiting:
                return [0.0, 1.0]
        count = self._num_sharing
        if count == 1:
            return self._alone.costs
        costs = self._together.costs[::count]
        return [cost / costs[1] for cost in costs] if len(costs) > 2 else [0.0, 1.0]

    @property
    def is_shared(self) -> bool:
        """Whether several sequences had the last step."""
        return self._num_sharing > 1

    @property
    def one_token_s(self) -> float:
        """Seconds of a step of one token of one sequence; 0.0 while none is known."""
        return self._alone.one_token_s

    def note_alone(self, num_tokens: int, seconds: float) -> None:
        """A sequence got the logits of all of ``num_tokens`` in ``seconds``, perhaps alone."""
        if self._num_sharing == 1:
            self._alone.note(num_tokens, seconds)

    def note_together(self, num_tokens: Sequence[int], seconds: float) -> None:
        """Sequences with so many tokens each had a step of ``seconds``."""
        self._num_sharing = len(num_tokens)
        total = sum(num_tokens)
        if self._num_sharing > 1 and total <= MAX_SHORT_TOKENS:
            self._together.note(total, seconds)


def _limited(change: float) -> float:
    return min(max(change, 1 / LARGEST_CHANGE), LARGEST_CHANGE)
