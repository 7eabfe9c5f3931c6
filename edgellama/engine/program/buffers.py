"""The memory that a step works in: one set for an engine, reused by every step.

Rows are padded to whole panels and tokens to whole tiles, so that matrix kernels need no tail code.
Memory is reserved for the largest step, and touched only as far as steps need it. Buffers that a
layer needs at different times share memory.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from functools import cached_property
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from edgellama.engine.program.key_splits import MAX_TOKEN_SPLITS
from edgellama.engine.program.program import Arguments
from edgellama.engine.program.step_sizes import MAX_SHORT_TOKENS, step_tokens
from edgellama.engine.program.step_values import Method
from edgellama.engine.weights.memory import paged, reserve, reserve_floats, reserve_shared, round_up
from edgellama.kernels_cpu.layouts import (
    BLOCK,
    CACHE_LINE,
    PANEL_VECTORS,
    SUPER_BLOCK,
    TILE_ROWS,
    TOKEN_PADDING,
    attention_scratch_bytes,
    gemm_scratch_bytes,
    half_sums_at,
    partial_bytes,
    records_bytes,
    scales_at,
    sums_at,
)
from edgellama.kernels_cpu.machine.cpu import Tier
from edgellama.kernels_cpu.signatures import QUANTIZED
from edgellama.quant.model_config import ModelConfig
from edgellama.quant.records import dataclass

MAX_ATTENTION_ROWS = TILE_ROWS
ATTENTION_TASK_ROWS = 128
"""Query rows of one attention task of a long step: enough that packing keys costs them little."""

CARD_TABLE_BYTES = 1 << 20
"""What a step's tables take on a card, at most."""
CARD_PARTS = 1024
"""Parts of keys whose results a card should have room for: those of eight tokens of long texts,
twice."""


@dataclass(frozen=True)
class Rows:
    """f32 rows of all tokens of a step, ``width`` numbers used of each."""

    array: npt.NDArray[np.float32]
    width: int

    @cached_property
    def address(self) -> int:
        """Where the first token's row begins."""
        return int(self.array.ctypes.data)

    @cached_property
    def stride(self) -> int:
        """Bytes from one token's row to the next."""
        return int(self.array.strides[0])


class QuantizedRows:
    """int8 rows in the two layouts of ``kernels_cpu.layouts``, which share the memory."""

    def __init__(self, parts: Sequence[npt.NDArray[np.uint8]]) -> None:
        """``parts``: quants or records, scales, sums and half sums, of ``sizes``."""
        self.parts = parts
        addresses = [int(part.ctypes.data) for part in parts]
        self._in_order = dict(zip(QUANTIZED, addresses, strict=True))
        self._as_records = dict.fromkeys(QUANTIZED, 0) | {"q": self.address}

    @staticmethod
    def sizes(num_tokens: int, width: int) -> list[int]:
        """Bytes of each part."""
        num_blocks = num_tokens * (round_up(width, BLOCK) // BLOCK)
        few_tokens = MAX_SHORT_TOKENS * records_bytes(round_up(width, SUPER_BLOCK * BLOCK))
        quants = max(num_blocks * BLOCK, few_tokens)
        return [quants, scales_at(num_blocks), sums_at(num_blocks), half_sums_at(num_blocks)]

    @property
    def address(self) -> int:
        """Where the quants, or the records, begin."""
        return self._in_order["q"]

    def arguments(self, layout: str) -> Arguments:
        """The arguments ``signatures.QUANTIZED`` of a kernel that writes the rows."""
        return dict(self._as_records if layout == "records" else self._in_order)


def quantized_strides(width: int) -> dict[str, int]:
    """Bytes from one token to the next in each array of int8 rows in order."""
    num_blocks = width // BLOCK
    return {
        "q": width,
        "q_scale": scales_at(num_blocks),
        "q_sum": sums_at(num_blocks),
        "q_half_sum": half_sums_at(num_blocks),
    }


@dataclass(frozen=True)
class InputRows(Rows):
    """Rows that matrices are multiplied with: as f32, as int8, or as both."""

    quantized: QuantizedRows


class StepBuffers:
    """Activations, quantized activations, logits and scratch of one engine."""

    def __init__(self, config: ModelConfig, tier: Tier, num_threads: int, row_numbers: int) -> None:
        self._tokens = buffer_tokens(config)
        self.panel_rows = PANEL_VECTORS * tier.lanes
        width = config.embedding_length
        self.token_ids = np.zeros(self._tokens, np.int32)
        self.cos_sin = reserve_floats(self._tokens, row_numbers)
        self.query_scales = np.ones(self._tokens, np.float32)
        self.residual = self._rows(reserve(self._num_bytes(width)), width)
        self._reserve_rows_of_layers(config)
        self.scratch_bytes = self._scratch_bytes(config)
        self.scratch = reserve(num_threads * self.scratch_bytes)
        self.scratch_address = int(self.scratch.ctypes.data)
        self.token_split_bytes = config.head_count * partial_bytes(
            config.head_size, self.panel_rows
        )
        self.partials = reserve(MAX_TOKEN_SPLITS * self.token_split_bytes)

    def _reserve_rows_of_layers(self, config: ModelConfig) -> None:
        """Rows that share memory, since a layer's attention and its other half take turns.

        The int8 of what attention reads go before it writes; its queries, before those of its
        result come.
        """
        width, hidden = config.embedding_length, config.feed_forward_length
        query, key = config.query_length, config.key_length
        narrow, rows = self._quantized_sizes(max(width, query)), self._num_bytes(query)
        first = max(rows, paged(narrow))
        attention, after_attention, feed_forward = reserve_shared(
            [first, *map(self._num_bytes, (query, key, key))],
            [first, *narrow],
            [*narrow, *self._quantized_sizes(hidden), *map(self._num_bytes, (hidden, hidden))],
        )
        *quantized, gate, up = feed_forward
        num_parts = len(narrow)
        normed = QuantizedRows(quantized[:num_parts])
        self.normed = self._inputs(reserve(self._num_bytes(width)), width, normed)
        self.query = self._rows(attention[1], query)
        self.key, self.value = (self._rows(part, key) for part in attention[2:])
        attended = QuantizedRows(after_attention[1:])
        self.attended = self._inputs(attention[0][:rows], query, attended)
        self.gate = self._inputs(gate, hidden, QuantizedRows(quantized[num_parts:]))
        self.up = self._rows(up, hidden)

    @property
    def num_rows(self) -> int:
        """Rows of every buffer: a step's tokens, and padding."""
        return self._tokens

    @property
    def strides(self) -> set[int]:
        """Bytes from one token to the next, of all rows, of what is int8, and of token ids."""
        rows = [value for value in vars(self).values() if isinstance(value, Rows)]
        inputs = [row for row in rows if isinstance(row, InputRows)]
        quantized = {stride for row in inputs for stride in quantized_strides(row.width).values()}
        return {row.stride for row in rows} | quantized | {self.token_ids.itemsize}

    def logits(self, vocab_size: int, num_tokens: int) -> Rows:
        """New rows for the logits of up to ``num_tokens`` tokens."""
        columns = round_up(vocab_size, self.panel_rows)
        num_rows = round_up(num_tokens + TOKEN_PADDING, TOKEN_PADDING)
        return Rows(reserve_floats(num_rows, columns), vocab_size)

    def used_bytes(self, num_tokens: int, untouched: Container[str]) -> int:
        """Bytes that steps of up to ``num_tokens`` tokens touch, logits not counted.

        ``untouched``: rows of which only the int8 are.
        """
        rows = {name: value for name, value in vars(self).items() if isinstance(value, Rows)}
        arrays: list[npt.NDArray[Any]] = [
            row.array for name, row in rows.items() if name not in untouched
        ]
        inputs = [row for row in rows.values() if isinstance(row, InputRows)]
        arrays += [part for row in inputs for part in row.quantized.parts]
        arrays.append(self.cos_sin)
        share = min(num_tokens, self._tokens) / self._tokens
        touched = [(int(part.ctypes.data), int(part.nbytes * share)) for part in arrays]
        return _num_covered(touched) + self.scratch.nbytes

    def _num_bytes(self, width: int) -> int:
        return 4 * self._tokens * round_up(width, max(self.panel_rows, BLOCK))

    def _quantized_sizes(self, width: int) -> list[int]:
        return QuantizedRows.sizes(self._tokens, width)

    def _rows(self, memory: npt.NDArray[np.uint8], width: int) -> Rows:
        return Rows(self._floats(memory), width)

    def _inputs(
        self, memory: npt.NDArray[np.uint8], width: int, quantized: QuantizedRows
    ) -> InputRows:
        return InputRows(self._floats(memory), width, quantized)

    def _floats(self, memory: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return memory.view(np.float32).reshape(self._tokens, -1)

    def _scratch_bytes(self, config: ModelConfig) -> int:
        width, panel = config.embedding_length, self.panel_rows
        widest = max(width, config.feed_forward_length, config.query_length)
        group = config.heads_per_group
        most_rows = group * max(attention_tokens(config, how) for how in get_args(Method))
        attention = attention_scratch_bytes(most_rows, config.head_size, panel)
        return round_up(max(gemm_scratch_bytes(panel, widest, width), attention), 4096)


def _num_covered(ranges: Sequence[tuple[int, int]]) -> int:
    """Bytes in any of some ranges, each the address where it begins and its length."""
    covered = reached = 0
    for start, length in sorted(ranges):
        end = max(start + length, reached)
        covered += end - max(start, reached)
        reached = end
    return covered


def buffer_tokens(config: ModelConfig) -> int:
    """Rows of the buffers of a model's steps.

    Tiles may begin at any row, where only some of a step's rows are multiplied.
    """
    return round_up(step_tokens(config) + TOKEN_PADDING, TOKEN_PADDING)


def attention_tokens(config: ModelConfig, method: Method) -> int:
    """Tokens of one attention task: a few, or as many as share what is packed for them."""
    if method == "direct":
        return MAX_SHORT_TOKENS
    return max(1, ATTENTION_TASK_ROWS // config.heads_per_group)


def card_bytes(config: ModelConfig, buffers: StepBuffers) -> int:
    """What a graphics card's memory must have beside pages: its own queries, tables, results."""
    head_bytes = CARD_PARTS * (4 * config.head_size + CACHE_LINE)
    return buffers.query.array.nbytes + CARD_TABLE_BYTES + config.head_count * head_bytes
