"""Keys and values of several sequences on a card, for the tests of its kernels.

The card is the double of ``doubles.warps``. Pages are garbage before they are written, and lie in
no order. Tests see plain arrays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from doubles.warps import WarpRunner

from edgellama.cuda.decode_layout import decode_tasks, head_parts, part_rows, partial_bytes
from edgellama.cuda.layouts import (
    HEADER_BYTES,
    MAX_DECODE_TOKENS,
    SEGMENT_BYTES,
)
from edgellama.cuda.signatures import CARD_SIGNATURES
from edgellama.engine.pages.card_layout import CardPageLayout
from edgellama.engine.pages.card_numbers import card_numbers
from edgellama.kernels_cpu.layouts import ALL_KEYS, PAGE_POSITIONS
from edgellama.kernels_cpu.signatures import CACHE_SCALE_ELEMENTS, Kernel

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Part:
    """Some tokens of a sequence in a step: a segment."""

    sequence: int
    position: int
    num_tokens: int


class CardCache:
    """One layer, the last of two, of sequences of up to ``num_positions``."""

    def __init__(
        self, runner: WarpRunner, kinds: tuple[str, str], head_size: int, kv_heads: int, group: int,
        num_sequences: int, num_positions: int, window: int = ALL_KEYS,
    ) -> None:  # fmt: skip
        self.runner, self.kinds, self.head_size = runner, kinds, head_size
        self.kv_heads, self.heads, self.window = kv_heads, kv_heads * group, window
        self.layout = CardPageLayout(kinds, 2, kv_heads, head_size)
        num_pages = -(-num_positions // PAGE_POSITIONS)
        self.memory = np.full((num_sequences * num_pages, self.layout.page_bytes), 0xFF, np.uint8)
        assert self.memory.ctypes.data % 16 == 0
        order = np.random.default_rng(1).permutation(len(self.memory))
        self.pages = order.reshape(num_sequences, num_pages)
        self.tables = (self.memory.ctypes.data + self.pages * self.layout.page_bytes).astype("i8")
        self._held: list[Array] = []

    def page(self, sequence: int, number: int) -> Array:
        """The bytes of a page."""
        return self.memory[self.pages[sequence, number]]

    def store(self, parts: Sequence[Part], k: Array, v: Array, q: Array | None = None) -> Array:
        """Store rows k and v (tokens, kv_heads, size) of parts; returns the staged ``q``."""
        staged = np.full((len(k), self.heads * self.head_size), np.nan, np.float32)
        rows = np.zeros_like(staged) if q is None else q
        name = f"card_store_{self.kinds[0]}_{self.kinds[1]}"
        self.runner.call(
            name, (len(k), self.kv_heads), q=rows, q_stride=4 * self.heads * self.head_size,
            staged_q=0 if q is None else staged, staged_stride=staged.strides[0], k=k, v=v,
            kv_stride=k.strides[0], segments=self.segments(parts, [0] * len(parts)),
            **self.layer(),
        )  # fmt: skip
        return staged

    def attend_few(
        self, parts: Sequence[Part], q: Array, split_keys: int = ALL_KEYS, seed: int = 0,
        at_once: int = 1,
    ) -> Array:  # fmt: skip
        """Attention of q (tokens, heads, size) by ``card_attend_few``; blocks come in any order."""
        group = self.heads // self.kv_heads
        counts = [
            decode_tasks(part.position, part.num_tokens, split_keys, self.window) for part in parts
        ]
        room = [
            np.full((count, self.heads, partial_bytes(self.head_size)), 0xFF, np.uint8)
            for count in counts
        ]
        tickets = [
            np.zeros(part.num_tokens * self.kv_heads * head_parts(group), np.int32)
            for part in parts
        ]
        kernel = Kernel("card_attend_few", (*self.kinds, part_rows(group)))
        y = np.full((len(q) + 2, *q.shape[1:]), np.nan, np.float32)
        segments = self.segments(parts, np.cumsum([0, *counts[:-1]]), split_keys, room, tickets)
        self.runner.call(
            kernel.name, (sum(counts), self.kv_heads, head_parts(group)),
            CARD_SIGNATURES[kernel].shared_bytes(self.head_size), seed=seed, at_once=at_once, q=q,
            q_stride=q.strides[0], y=y[1:], y_stride=y.strides[0], segments=segments,
            window=self.window, scale=math.log2(math.e) / math.sqrt(self.head_size),
            **self.layer(),
        )  # fmt: skip
        assert np.isnan(y[[0, -1]]).all(), "written outside"
        assert not any(ticket.any() for ticket in tickets), "tickets are not given back"
        return y[1:-1]

    def layer(self) -> dict[str, int]:
        """Arguments that tell where the layer lies."""
        return {
            "head_size": self.head_size, "num_heads": self.heads, "num_kv_heads": self.kv_heads,
            "key_offset": self.layout.key_offset(1), "value_offset": self.layout.value_offset(1),
            "key_head_bytes": self.layout.key_head_bytes,
            "value_head_bytes": self.layout.value_head_bytes,
        }  # fmt: skip

    def segments(
        self, parts: Sequence[Part], first_tasks: Sequence[int] | Array, split_keys: int = ALL_KEYS,
        partials: Sequence[Array] = (), tickets: Sequence[Array] = (),
    ) -> Array:  # fmt: skip
        """The table of segments; those of few tokens come first, wherever their rows are."""
        table = np.zeros(HEADER_BYTES // 8 + len(parts) * SEGMENT_BYTES // 8, np.int64)
        table[0] = len(parts)
        table[1] = sum(part.num_tokens <= MAX_DECODE_TOKENS for part in parts)
        rows = np.cumsum([0, *(part.num_tokens for part in parts)])
        order = sorted(range(len(parts)), key=lambda i: parts[i].num_tokens > MAX_DECODE_TOKENS)
        for place, number in enumerate(order):
            part, at = parts[number], (HEADER_BYTES + place * SEGMENT_BYTES) // 8
            table[at : at + 8] = (
                rows[number], part.num_tokens, part.position,
                self.tables[part.sequence].ctypes.data, first_tasks[number], split_keys,
                partials[number].ctypes.data if partials else 0,
                tickets[number].ctypes.data if tickets else 0,
            )  # fmt: skip
        return table

    def stored(self, sequence: int) -> tuple[Array, Array]:
        """Keys and values of a sequence as f32, (positions, kv_heads, size)."""
        both: tuple[list[Array], list[Array]] = ([], [])
        for number in range(self.pages.shape[1]):
            read = card_numbers(self.page(sequence, number), self.layout)
            for kind, numbers, rows in zip(self.kinds, read, both, strict=True):
                values = _floats(kind, numbers.numbers()[1])
                scales = numbers.scales()
                if scales is not None:
                    halves = np.ascontiguousarray(scales[1]).view(np.float16).astype(np.float32)
                    each = halves.repeat(CACHE_SCALE_ELEMENTS[kind], axis=-1)
                    values = values * each[..., : self.head_size]
                rows.append(values.swapaxes(0, 1))
        return np.concatenate(both[0]), np.concatenate(both[1])

    def naive(self, parts: Sequence[Part], q: Array) -> Array:
        """softmax(q k / sqrt(size)) v in f64, row by row; q (tokens, heads, size)."""
        result = np.zeros_like(q, dtype=np.float64)
        row = 0
        for part in parts:
            keys, values = self.stored(part.sequence)
            for token in range(part.num_tokens):
                end = part.position + token + 1
                start = max(end - self.window, 0)
                for head in range(self.heads):
                    kv = head * self.kv_heads // self.heads
                    k, v = (x[start:end, kv].astype(np.float64) for x in (keys, values))
                    scores = k @ q[row, head].astype(np.float64) / math.sqrt(self.head_size)
                    weights = np.exp(scores - scores.max())
                    result[row, head] = weights @ v / weights.sum()
                row += 1
        return result


def _floats(kind: str, numbers: Array) -> Array:
    """Numbers of the cache without their scales; the bits of one each."""
    bits = np.ascontiguousarray(numbers)
    if kind == "bf16":
        return (bits.astype(np.uint32) << 16).view(np.float32)
    if kind == "q4_0":
        return bits.astype(np.float32) - 8
    dtypes = {"f32": np.float32, "f16": np.float16, "q8_0": np.int8}
    return bits.view(dtypes[kind]).astype(np.float32)
