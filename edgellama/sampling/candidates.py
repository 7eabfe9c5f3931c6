"""Tokens that may still be chosen, with their logits; each stage passes them to the next.

At first they are the whole vocabulary, and fewer after each filter. The stages decide which ones
stay.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from edgellama.quant.records import dataclass
from edgellama.sampling.filters import Indices, Logits


@dataclass(frozen=True)
class Candidates:
    """Logits of tokens, by rising token; ``tokens`` None is the whole vocabulary."""

    logits: Logits
    tokens: Indices | None = None

    def kept(self, indices: Indices) -> Candidates:
        """The candidates at ``indices``, which are in rising order."""
        tokens = indices if self.tokens is None else self.tokens[indices]
        return Candidates(self.logits[indices], tokens)

    def token(self, index: int) -> int:
        """The token at an index."""
        return index if self.tokens is None else int(self.tokens[index])

    def places(self, tokens: Collection[int] | Indices) -> tuple[Indices, Indices]:
        """Where ``tokens`` are among the candidates, and which of ``tokens`` these are."""
        wanted = np.fromiter(tokens, dtype=np.intp, count=len(tokens))
        if self.tokens is None:
            found = np.flatnonzero((wanted >= 0) & (wanted < len(self.logits)))
            return wanted[found], found
        places = np.searchsorted(self.tokens, wanted)
        found = np.flatnonzero(self.tokens[np.minimum(places, len(self.tokens) - 1)] == wanted)
        return places[found], found
