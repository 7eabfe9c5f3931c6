"""Mirostat: a limit on surprise that follows the text and keeps its surprise at a target.

Source: https://arxiv.org/abs/2007.14966; version 2 and the numbers are llama.cpp's.
"""

from __future__ import annotations

from edgellama.sampling.filters import Indices, Logits, draw
from edgellama.sampling.options import SamplingOptions
from edgellama.sampling.shape_filters import keep_by_zipf, keep_surprising_up_to, surprise_bits


class Mirostat:
    """Chooses and learns; ``limit_bits`` is how surprising a token may be now."""

    def __init__(self, options: SamplingOptions) -> None:
        self._cut = keep_by_zipf if options.mirostat == 1 else keep_surprising_up_to
        self._wanted_bits = float(options.mirostat_tau)
        self._rate = float(options.mirostat_eta)
        self.limit_bits = 2 * self._wanted_bits

    def __call__(self, logits: Logits, fraction: float) -> int:
        """The index on which a random ``fraction`` in [0, 1) of what is kept falls."""
        kept = self.keep(logits)
        index = draw(logits[kept], 1.0, fraction)
        self.learn(surprise_bits(logits[kept], index))
        return int(kept[index])

    def keep(self, logits: Logits) -> Indices:
        """Indices of what may be chosen now."""
        return self._cut(logits, self.limit_bits)

    def learn(self, surprise: float) -> None:
        """Move the limit towards the wanted surprise, in bits, after a token of ``surprise``."""
        self.limit_bits -= self._rate * (surprise - self._wanted_bits)
