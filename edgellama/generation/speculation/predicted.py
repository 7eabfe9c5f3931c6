"""Guesses from a text that the caller expects, such as the file that an answer edits.

The expected text is put before prompt and text, where n-grams find it like any earlier place.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgellama.generation.speculation.drafter import Drafter


class PredictedDrafter:
    """What another drafter guesses for one text behind an expected one."""

    def __init__(self, drafter: Drafter, expected: Sequence[int]) -> None:
        self._drafter = drafter
        self._num_expected = len(expected)
        self._tokens = list(expected)

    def draft(self, tokens: Sequence[int], most: int) -> Sequence[int]:
        """Up to ``most`` tokens that may follow."""
        num_known = len(self._tokens) - self._num_expected
        num_same = num_known if self._goes_on(tokens, num_known) else self._num_same(tokens)
        del self._tokens[self._num_expected + num_same :]
        self._tokens += tokens[num_same:]
        return self._drafter.draft(self._tokens, most)

    def _goes_on(self, tokens: Sequence[int], num_known: int) -> bool:
        """Whether there are new tokens behind those that are known, as nearly always."""
        is_longer = len(tokens) > num_known
        return is_longer and (not num_known or self._tokens[-1] == tokens[num_known - 1])

    def _num_same(self, tokens: Sequence[int]) -> int:
        """How far a text that went back is the same."""
        known = self._tokens[self._num_expected :]
        pairs = enumerate(zip(known, tokens, strict=False))
        shorter = min(len(known), len(tokens))
        return next((place for place, (old, new) in pairs if old != new), shorter)
