"""Angles of rotary positions, and their table for the tokens of one step.

It knows base, linear, dynamic NTK and YaRN scaling (Peng et al. 2023), and the divisors of Llama
3.1. A kernel does the rotation.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from edgellama.quant.rope_config import RopeConfig

BLOCK = 64
"""Positions whose rows are computed together, so that a step of one token only copies."""
MAX_BLOCKS = 16


class RopeTable:
    """Cosines and sines for the ``rope`` kernel."""

    def __init__(self, config: RopeConfig, divisors: npt.NDArray[np.float32] | None = None) -> None:
        """``divisors``: one per pair, from the tensor ``rope_freqs.weight``."""
        self._config = config
        self.num_pairs = config.dimension_count // 2
        self._exponents = np.arange(self.num_pairs, dtype=np.float64) / self.num_pairs
        self._divisors = 1.0 if divisors is None else divisors
        frequencies = config.freq_base**-self._exponents / self._divisors
        self._magnitude = config.attention_factor
        if config.scaling == "linear":
            frequencies = frequencies / config.factor
        elif config.scaling == "yarn":
            frequencies = _yarn(frequencies, config)
            if config.factor > 1.0 and config.extrapolation:
                self._magnitude *= 1.0 + 0.1 * math.log(config.factor)
        self._frequencies = np.repeat(frequencies, 2)
        self._signs = np.tile([-1.0, 1.0], self.num_pairs)
        self._blocks: dict[int, npt.NDArray[np.float32]] = {}

    @property
    def row_numbers(self) -> int:
        """f32 numbers of one token's row."""
        return 4 * self.num_pairs

    def fill(
        self,
        table: npt.NDArray[np.float32],
        position: int,
        num_tokens: int,
        prompt_length: int = 0,
    ) -> None:
        """Write rows for ``num_tokens`` tokens from ``position`` on: (tokens, row_numbers).

        ``prompt_length``: tokens that the text began with, for which dynamic scaling turns all of
        them; those that follow are turned for the length that they make, as transformers does.
        """
        end = position + num_tokens
        original = self._config.dynamic_from
        if original is not None and max(end, prompt_length) > original:
            positions = np.arange(position, end)
            lengths = np.maximum(positions + 1, max(prompt_length, original))
            frequencies = np.repeat(self._dynamic(lengths), 2, axis=1)
            table[:num_tokens, : self.row_numbers] = self._rows(positions, frequencies)
            return
        while position < end:
            number, first = divmod(position, BLOCK)
            count = min(BLOCK - first, end - position)
            row = num_tokens - (end - position)
            table[row : row + count, : self.row_numbers] = self._block(number)[
                first : first + count
            ]
            position += count

    def fill_query_scales(
        self, scales: npt.NDArray[np.float32], position: int, num_tokens: int
    ) -> None:
        """Write what queries of ``num_tokens`` tokens from ``position`` on are multiplied with."""
        config = self._config
        contexts = np.arange(position, position + num_tokens) // config.original_context_length
        scales[:num_tokens] = 1.0 + config.temperature_scale * np.log1p(contexts)

    def _block(self, number: int) -> npt.NDArray[np.float32]:
        """Rows of ``BLOCK`` positions; the blocks used last are kept."""
        block = self._blocks.pop(number, None)
        if block is None:
            positions = np.arange(number * BLOCK, (number + 1) * BLOCK)
            block = self._rows(positions, self._frequencies)
        self._blocks[number] = block
        if len(self._blocks) > MAX_BLOCKS:
            del self._blocks[next(iter(self._blocks))]
        return block

    def _rows(
        self, positions: npt.NDArray[np.int64], frequencies: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float32]:
        """(positions, row_numbers); ``frequencies`` are those of all positions or of each."""
        angles = positions[:, None] * frequencies
        cosines, sines = np.cos(angles), np.sin(angles) * self._signs
        numbers = np.concatenate([cosines, sines], axis=1) * self._magnitude
        rows: npt.NDArray[np.float32] = numbers.astype(np.float32)
        return rows

    def _dynamic(self, lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Frequencies (lengths, pairs) by NTK: the base grows with the length of a text."""
        config, size = self._config, self._config.dimension_count
        stretch = config.factor * lengths / config.original_context_length - (config.factor - 1)
        bases = config.freq_base * stretch ** (size / (size - 2))
        frequencies: npt.NDArray[np.float64] = bases[:, None] ** -self._exponents / self._divisors
        return frequencies


def _yarn(frequencies: npt.NDArray[np.float64], config: RopeConfig) -> npt.NDArray[np.float64]:
    """High frequencies kept, low ones interpolated, a ramp between."""

    def pair_with(rotations: float) -> float:
        wavelengths = config.original_context_length / (rotations * 2 * math.pi)
        return config.dimension_count * math.log(wavelengths) / (2 * math.log(config.freq_base))

    low = max(0.0, math.floor(pair_with(config.beta_fast)))
    high = min(config.dimension_count - 1.0, math.ceil(pair_with(config.beta_slow)))
    pairs = np.arange(config.dimension_count // 2)
    keep = 1.0 - np.clip((pairs - low) / max(0.001, high - low), 0.0, 1.0)
    keep *= config.extrapolation
    mixed: npt.NDArray[np.float64] = frequencies / config.factor * (1.0 - keep) + frequencies * keep
    return mixed
