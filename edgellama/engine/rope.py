"""Angles of rotary positions, and their table for the tokens of one step.

Knows base, linear and YaRN scaling (Peng et al. 2023) and the divisors of Llama 3.1; the
rotation itself is a kernel.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from edgellama.quant.model_config import RopeConfig

BLOCK = 64
"""Positions whose rows are computed together, so that a step of one token only copies."""
MAX_BLOCKS = 16


class RopeTable:
    """Cosines and sines for the ``rope`` kernel."""

    def __init__(self, config: RopeConfig, divisors: npt.NDArray[np.float32] | None = None) -> None:
        """``divisors``: one per pair, from the tensor ``rope_freqs.weight``."""
        self.num_pairs = config.dimension_count // 2
        exponents = np.arange(self.num_pairs, dtype=np.float64) / self.num_pairs
        frequencies = config.freq_base**-exponents
        if divisors is not None:
            frequencies = frequencies / divisors
        self._magnitude = config.attention_factor
        if config.scaling == "linear":
            frequencies = frequencies / config.factor
        elif config.scaling == "yarn":
            frequencies = _yarn(frequencies, config)
            self._magnitude *= 1.0 + 0.1 * math.log(config.factor) if config.factor > 1.0 else 1.0
        self._frequencies = np.repeat(frequencies, 2)
        self._signs = np.tile([-1.0, 1.0], self.num_pairs)
        self._blocks: dict[int, npt.NDArray[np.float32]] = {}

    @property
    def row_numbers(self) -> int:
        """f32 numbers of one token's row."""
        return 4 * self.num_pairs

    def fill(self, table: npt.NDArray[np.float32], position: int, num_tokens: int) -> None:
        """Write rows for ``num_tokens`` tokens from ``position`` on: (tokens, row_numbers)."""
        end = position + num_tokens
        while position < end:
            number, first = divmod(position, BLOCK)
            count = min(BLOCK - first, end - position)
            row = num_tokens - (end - position)
            table[row : row + count, : self.row_numbers] = self._block(number)[
                first : first + count
            ]
            position += count

    def _block(self, number: int) -> npt.NDArray[np.float32]:
        """Rows of ``BLOCK`` positions; the blocks used last are kept."""
        block = self._blocks.pop(number, None)
        if block is None:
            angles = np.arange(number * BLOCK, (number + 1) * BLOCK)[:, None] * self._frequencies
            cosines, sines = np.cos(angles), np.sin(angles) * self._signs
            block = (np.concatenate([cosines, sines], axis=1) * self._magnitude).astype(np.float32)
        self._blocks[number] = block
        if len(self._blocks) > MAX_BLOCKS:
            del self._blocks[next(iter(self._blocks))]
        return block


def _yarn(frequencies: npt.NDArray[np.float64], config: RopeConfig) -> npt.NDArray[np.float64]:
    """High frequencies kept, low ones interpolated, a ramp between."""

    def pair_with(rotations: float) -> float:
        wavelengths = config.original_context_length / (rotations * 2 * math.pi)
        return config.dimension_count * math.log(wavelengths) / (2 * math.log(config.freq_base))

    low = max(0.0, math.floor(pair_with(config.beta_fast)))
    high = min(config.dimension_count - 1.0, math.ceil(pair_with(config.beta_slow)))
    pairs = np.arange(config.dimension_count // 2)
    keep = 1.0 - np.clip((pairs - low) / max(0.001, high - low), 0.0, 1.0)
    mixed: npt.NDArray[np.float64] = frequencies / config.factor * (1.0 - keep) + frequencies * keep
    return mixed
