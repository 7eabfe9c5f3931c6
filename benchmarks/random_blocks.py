"""Random blocks of each format that dequantize to numbers of a given spread.

Where their scales lie, and what random bytes come to at a scale of one. Which bytes and which
scales are drawn is decided by the code that writes a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from gguf import GGMLQuantizationType

Bytes: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True)
class RandomBlocks:
    """Where a block has its half scale, and what random bytes come to at a scale of one.

    ``minimum`` is the second half scale, just behind the first, in units of the first: it
    centres the weights. ``deviation`` is their standard deviation.
    """

    scale_at: int
    deviation: float
    minimum: float | None = None

    def set_spread(self, blocks: Bytes, factors: Any, spread: float) -> Bytes:
        """Give uint8 ``blocks`` (blocks, bytes of one) scales for about this standard deviation.

        ``factors``, floats (blocks, 1) about 1 or -1, make them differ. Returns ``blocks``.
        """
        units = np.array([1.0] if self.minimum is None else [1.0, self.minimum], factors.dtype)
        halves = (spread / self.deviation * factors * units).astype(np.float16).view(np.uint8)
        blocks[:, self.scale_at : self.scale_at + halves.shape[1]] = halves
        return blocks


@dataclass(frozen=True)
class RandomExponents:
    """The same of blocks that begin with scales of one byte, which grow by a power of two.

    ``num_scales`` bytes of ``steps`` from one power to the next; ``one`` stands for a scale of 1.
    """

    num_scales: int
    steps: int
    one: int
    deviation: float

    def set_spread(self, blocks: Bytes, factors: Any, spread: float) -> Bytes:
        """As ``RandomBlocks.set_spread``, but that ``factors`` count by their magnitude alone."""
        powers = np.log2(spread / self.deviation * np.abs(factors))
        blocks[:, : self.num_scales] = np.rint(self.one + self.steps * powers).clip(1)
        return blocks


@dataclass(frozen=True)
class RandomQuarters:
    """The same of IQ1_M, whose half scale has four bits above those of each four groups."""

    deviation: float

    def set_spread(self, blocks: Bytes, factors: Any, spread: float) -> Bytes:
        """As ``RandomBlocks.set_spread``."""
        halves = (spread / self.deviation * factors).astype(np.float16).view(np.uint16)
        words = blocks[:, 48:56].copy().view(np.uint16) & np.uint16(0xFFF)
        words |= halves >> np.arange(0, 16, 4, dtype=np.uint16) << np.uint16(12)
        blocks[:, 48:56] = words.view(np.uint8)
        return blocks


RANDOM_BLOCKS: Mapping[GGMLQuantizationType, RandomBlocks | RandomExponents | RandomQuarters] = {
    GGMLQuantizationType.Q4_0: RandomBlocks(0, 4.6),
    GGMLQuantizationType.Q4_1: RandomBlocks(0, 4.6, -7.5),
    GGMLQuantizationType.Q5_0: RandomBlocks(0, 9.2),
    GGMLQuantizationType.Q5_1: RandomBlocks(0, 9.2, -15.5),
    GGMLQuantizationType.Q8_0: RandomBlocks(0, 74),
    GGMLQuantizationType.Q2_K: RandomBlocks(80, 13.9, 1.5),
    GGMLQuantizationType.Q3_K: RandomBlocks(108, 43.3),
    GGMLQuantizationType.Q4_K: RandomBlocks(0, 258, 7.5),
    GGMLQuantizationType.Q5_K: RandomBlocks(0, 527, 15.5),
    GGMLQuantizationType.Q6_K: RandomBlocks(208, 1370),
    GGMLQuantizationType.IQ4_NL: RandomBlocks(0, 67),
    GGMLQuantizationType.IQ4_XS: RandomBlocks(0, 1250),
    GGMLQuantizationType.IQ2_XXS: RandomBlocks(0, 53),
    GGMLQuantizationType.IQ2_XS: RandomBlocks(0, 56),
    GGMLQuantizationType.IQ2_S: RandomBlocks(0, 56),
    GGMLQuantizationType.IQ3_XXS: RandomBlocks(0, 142),
    GGMLQuantizationType.IQ3_S: RandomBlocks(0, 140),
    GGMLQuantizationType.IQ1_S: RandomBlocks(0, 7.5),
    GGMLQuantizationType.IQ1_M: RandomQuarters(7.5),
    GGMLQuantizationType.TQ1_0: RandomBlocks(52, 0.8),
    GGMLQuantizationType.TQ2_0: RandomBlocks(64, 1.2),
    GGMLQuantizationType.MXFP4: RandomExponents(1, 1, 128, 5.9),
    GGMLQuantizationType.NVFP4: RandomExponents(4, 8, 64, 5.9),
}
