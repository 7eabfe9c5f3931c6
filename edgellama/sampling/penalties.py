"""The repetition penalty: tokens that came lately become less likely.

What is lately, and which tokens are spared, is said by sampler.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from edgellama.sampling.filters import Logits


def penalize_repeats(logits: Logits, recent: Collection[int], penalty: float) -> Logits:
    """A copy in which the logits of ``recent`` tokens are weakened, each once.

    Positive ones are divided by ``penalty``, negative ones multiplied, as in CTRL
    (https://arxiv.org/abs/1909.05858) with the sign rule that all runtimes use.
    """
    if not recent:
        return logits
    tokens = np.fromiter(recent, dtype=np.intp, count=len(recent))
    weakened = logits.copy()
    values = weakened[tokens]
    weakened[tokens] = np.where(values > 0, values / penalty, values * penalty)
    return weakened


class SeenTokens:
    """The different tokens of one growing history, of which only what is new is looked at."""

    def __init__(self) -> None:
        self._tokens: dict[int, None] = {}
        self._num_seen = 0

    def of(self, history: Sequence[int]) -> Collection[int]:
        """Every token of ``history`` once; it begins as in the last call, or is a shorter one."""
        if len(history) < self._num_seen:
            self._tokens, self._num_seen = {}, 0
        self._tokens.update(dict.fromkeys(history[self._num_seen :]))
        self._num_seen = len(history)
        return self._tokens
