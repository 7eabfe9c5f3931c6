"""Random blocks of each format that dequantize to numbers of a given spread.

Where their scales lie, and what random bytes come to at a scale of one. Which bytes and which
scales are drawn is left to who writes a model.
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


RANDOM_BLOCKS: Mapping[GGMLQuantizationType, RandomBlocks] = {
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
}
