"""Log-probabilities as numbers: of a token, and of the likeliest tokens at its place.

They have the same bits wherever they are computed. This module does not know the tokens' texts.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from edgellama.quant.records import dataclass
from edgellama.sampling.filters import Logits, keep_top_k

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TokenShare:
    """The natural logarithm of a token's probability, and the likeliest tokens with theirs."""

    token: int
    logprob: float
    likeliest: tuple[tuple[int, float], ...] = ()

    @classmethod
    def by(cls, logits: Logits, token: int, num_alternatives: int) -> TokenShare:
        """Make the share of a token by logits (vocab_size,)."""
        total = log_total(logits)
        likeliest: list[int] = []
        if num_alternatives:
            kept = keep_top_k(logits, num_alternatives)
            likeliest = kept[np.argsort(-logits[kept], kind="stable")].tolist()
        others = tuple((other, float(logits[other]) - total) for other in likeliest)
        return cls(token, float(logits[token]) - total, others)

    def row(self) -> Floats:
        """The share as a row of f32 that keeps every bit: two of them are the halves of an f64."""
        numbers = [
            self.token,
            self.logprob,
            *(number for each in self.likeliest for number in each),
        ]
        return np.array(numbers, np.float64).view(np.float32)

    @classmethod
    def from_row(cls, row: Floats) -> TokenShare:
        """What ``row`` was made of."""
        token, logprob, *others = np.ascontiguousarray(row).view(np.float64).tolist()
        pairs = zip(map(int, others[::2]), others[1::2], strict=True)
        return cls(int(token), logprob, tuple(pairs))


def row_width(num_alternatives: int | None, vocab_size: int) -> int:
    """Numbers of ``row``; without log-probabilities a token alone."""
    return 1 if num_alternatives is None else 4 * (1 + min(num_alternatives, vocab_size))


def log_total(logits: Logits) -> float:
    """The logarithm of the sum of all exponentials: a logit less this is a log-probability."""
    largest = float(logits.max())
    below = (logits - np.float32(largest)).astype(np.float32)
    return largest + math.log(float(np.exp(below).sum(dtype=np.float64)))
