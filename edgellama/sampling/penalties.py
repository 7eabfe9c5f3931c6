"""Penalties by count: tokens that came recently become less likely.

``stages`` decides which tokens count as recent, and which ones are spared.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from edgellama.sampling.filters import Indices, Logits


def penalize_seen(
    logits: Logits,
    places: Indices,
    counts: Indices,
    *,
    repeat: float = 1.0,
    frequency: float = 0.0,
    presence: float = 0.0,
) -> Logits:
    """A copy in which the logits at ``places``, which came ``counts`` times, are weakened.

    Positive ones are divided by ``repeat``, others multiplied, as in CTRL
    (https://arxiv.org/abs/1909.05858) with the sign rule that all runtimes use. Then each loses
    ``frequency`` times its count, and ``presence``.
    """
    weakened = logits.copy()
    values = weakened[places]
    values = np.where(values > 0, values / np.float32(repeat), values * np.float32(repeat))
    weakened[places] = values - (counts * frequency + presence).astype(np.float32)
    return weakened


class SeenTokens:
    """How often each token came in one growing history, of which only what is new is looked at."""

    def __init__(self, spared: Collection[int] = ()) -> None:
        """``spared`` tokens are not counted."""
        self._spared = spared
        self._counts: dict[int, int] = {}
        self._num_seen = 0

    def of(self, history: Sequence[int], last_n: int) -> Mapping[int, int]:
        """Counts of the last ``last_n`` tokens of ``history`` (-1: of all).

        ``history`` begins as in the last call, or is a shorter one.
        """
        if last_n >= 0:
            self._counts, self._num_seen = {}, max(0, len(history) - last_n)
        elif len(history) < self._num_seen:
            self._counts, self._num_seen = {}, 0
        for token in history[self._num_seen :]:
            if token not in self._spared:
                self._counts[token] = self._counts.get(token, 0) + 1
        self._num_seen = len(history)
        return self._counts
