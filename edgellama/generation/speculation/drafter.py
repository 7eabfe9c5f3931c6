"""A draft: tokens that probably come next, guessed without the model.

Decoding computes them in one step with the token before, and keeps those that its sampler chooses
as well. So a draft decides how fast a text comes, never what it says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Drafter(Protocol):
    """Guesses how one text continues."""

    def draft(self, tokens: Sequence[int], most: int) -> Sequence[int]:
        """Up to ``most`` tokens that may follow ``tokens``, prompt and text so far; often none."""
        ...
