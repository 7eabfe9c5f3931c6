"""The kinds of steps: which kernels suit a number of tokens, and a way to attend.

Kernels for a few tokens and for many give the same bits; those for one add up in another order.
"""

from __future__ import annotations

from typing import get_args

from edgellama.engine.program.step_sizes import MAX_SHORT_TOKENS
from edgellama.engine.program.step_values import Attending, Batch, Method, StepKind
from edgellama.kernels_cpu.machine.cpu import Tier
from edgellama.quant.records import dataclass

WIDEST_LANES = 16


@dataclass(frozen=True)
class StepKinds:
    """The kinds of steps on one tier.

    ``is_exact``: one order of sums for one token and for many, so that no step takes a kernel that
    adds up in another order than those for many tokens.
    """

    tier: Tier
    is_exact: bool

    def kind_of(self, num_tokens: int, attending: Attending, is_alike: bool = False) -> StepKind:
        """Which kernels a step of so many tokens takes; ``attending``: what suits its segments.

        ``is_alike``: each of a few tokens has the bits that it would have alone.
        """
        batch = self.batch_of(num_tokens, is_alike)
        return StepKind(batch, "direct" if self.is_exact else attending)

    def of_texts(self) -> set[StepKind]:
        """All kinds that steps without guesses can be of on this tier."""
        counts, ways = range(1, MAX_SHORT_TOKENS + 2), get_args(Method)
        return {self.kind_of(count, attending) for count in counts for attending in ways}

    def of_guesses(self) -> set[StepKind]:
        """All kinds of steps that check guesses."""
        few = range(1, MAX_SHORT_TOKENS + 1)
        return {self.kind_of(count, "direct", is_alike=True) for count in few}

    def batch_of(self, num_tokens: int, is_alike: bool = False) -> Batch:
        """How matrices are multiplied with so many tokens."""
        if num_tokens == 1 and not self.is_exact:
            return "one"
        if is_alike and num_tokens <= MAX_SHORT_TOKENS and not self.is_exact:
            # For a second token the weights are still in the first-level cache.
            if num_tokens == 2:
                return "one"
            is_wide = num_tokens > 4 and self.tier.lanes == WIDEST_LANES
            return "eight_alike" if is_wide else "four_alike"
        if num_tokens > MAX_SHORT_TOKENS:
            return "many"
        if num_tokens <= 2:
            return "two"
        # Only the widest tiers have registers for eight tokens at a time.
        is_eight = 4 < num_tokens <= 8 and self.tier.lanes == WIDEST_LANES
        return "eight" if is_eight else "four"

    def batch_like_many(self, num_tokens: int) -> Batch:
        """The same for so many tokens of a step of many, whose bits they keep."""
        return self.batch_of(max(2, num_tokens))
