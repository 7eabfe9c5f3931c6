"""Calls the kernels around a KV cache on one layer of a real one, for their tests.

How numbers lie in a cache stays in here: tests see plain arrays.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import numpy as np

from edgellama.engine.pages.kv_cache import KVCache
from edgellama.engine.pages.kv_types import KVTypes, scale_bytes
from edgellama.engine.pages.page_layout import PageLayout, memory_parts
from edgellama.engine.pages.page_pool import Hold, PagePool
from edgellama.engine.program.buffers import MAX_ATTENTION_ROWS
from edgellama.engine.program.key_splits import MAX_TOKEN_SPLITS
from edgellama.engine.steps import segments as engine_segments
from edgellama.engine.steps.rope import RopeTable
from edgellama.engine.steps.segments import Segment, SegmentTable
from edgellama.engine.usual_kernels import CACHE_FAMILIES
from edgellama.kernels_cpu.layouts import ALL_KEYS, PAGE_POSITIONS, partial_bytes
from edgellama.kernels_cpu.machine.cpu import Tier
from edgellama.kernels_cpu.signatures import CACHE_SCALE_ELEMENTS, SIGNATURES, Kernel
from edgellama.quant.rope_config import RopeConfig
from harness.kernels import (
    EVERYTHING,
    READ_ONLY_FORMATS,
    TIERS,
    Array,
    KernelRunner,
    model_of,
)

METHODS: dict[tuple[str, str], tuple[int | str, ...]] = {
    ("f32", "f32"): (3, 8),
    ("f16", "f16"): (1, 2, 3, 5, 8, "packed"),
    ("bf16", "q4_0"): (3, "packed"),
    ("q4_0", "bf16"): (3, "packed"),
    ("q8_0", "q8_0"): (3, "packed"),
}
"""The attention kernels that tests call, by types of keys and values: each type once as either.

Numbers are rows of a kernel over the cache as it is.
"""
SAMPLED_METHODS: dict[tuple[str, str], tuple[int | str, ...]] = {
    ("f16", "f16"): (3, 8, "packed"),
    ("bf16", "q4_0"): (3,),
    ("q4_0", "bf16"): (3,),
}
"""Which of them the default run calls on the reference: each type, few rows, many and packed."""
PAIRS = tuple(METHODS)


def attention_kernel(pair: tuple[str, str], method: int | str) -> Kernel:
    """The kernel of a method of ``METHODS``."""
    if method == "packed":
        return Kernel("attention_packed", pair)
    return Kernel("attention_direct", (*pair, method))


CACHE_KERNELS = [
    "merge_attention",
    *(Kernel("rope_store", pair).name for pair in PAIRS),
    *(Kernel("rope", (keys,)).name for keys, _ in PAIRS),
    *(attention_kernel(pair, method).name for pair, each in METHODS.items() for method in each),
]
OTHER_KERNELS = [
    kernel.name
    for kernel in SIGNATURES
    if kernel.family not in (*CACHE_FAMILIES, "merge_attention", "rope", "attend_on_card")
    and not set(READ_ONLY_FORMATS).intersection(kernel.options)
]
ENGINE_KERNELS = [
    "attend_on_card",
    "attention_direct_bf16_q4_0_2",
    "attention_direct_f32_f32_1",
    "attention_direct_f32_f32_2",
    "attention_direct_q8_0_q8_0_2",
]
"""What tiny models of the default run need besides, on the fastest tier."""
READ_ONLY_KERNELS = [
    Kernel(family, (name,)).name
    for name in READ_ONLY_FORMATS
    for family in ("gemv", "gemm", "embed")
]
"""Those that the default run tests of formats that are only read."""


def methods(tier: Tier, pair: tuple[str, str]) -> tuple[int | str, ...]:
    """Those of ``METHODS`` that the default run calls on a tier."""
    is_sampled = tier is not TIERS[0] and not EVERYTHING
    return SAMPLED_METHODS.get(pair, METHODS[pair]) if is_sampled else METHODS[pair]


def cache_kernels(tier: Tier) -> list[str]:
    """Those of ``CACHE_KERNELS`` that the default run calls on a tier."""
    left = {
        attention_kernel(pair, method).name
        for pair in PAIRS
        for method in METHODS[pair]
        if method not in methods(tier, pair)
    }
    return [name for name in CACHE_KERNELS if name not in left]


class ShuffledPool(PagePool):
    """Gives pages of NaN from one piece of memory, from its end to its beginning."""

    def __init__(self, layout: PageLayout, num_pages: int) -> None:
        super().__init__(layout)
        self._memory = np.full((num_pages, layout.page_bytes), 0xFF, np.uint8)
        self._taken = 0

    def new(self, *, is_for_all: bool = False) -> Hold:
        """The next page."""
        self._taken += 1
        return self.adopt(self._memory[-self._taken])


@contextlib.contextmanager
def split_into(split_keys: int) -> Iterator[None]:
    """Keys are split into parts of this size, whatever the position."""
    with mock.patch.object(engine_segments, "split_keys_at", lambda position: split_keys):
        yield


class CacheRunner:
    """Storing into and attending over one layer of real pages, all of them NaN before.

    Pages are taken in no order, so that neighbours in a sequence are none in memory.
    """

    def __init__(
        self,
        runner: KernelRunner,
        kv_type: str | tuple[str, str],
        head_size: int,
        kv_heads: int,
        group: int,
        context_length: int,
        pairs: int | None = None,
        window: int | None = None,
    ) -> None:
        self._runner = runner
        self.head_size = head_size
        self.heads, self.kv_heads = kv_heads * group, kv_heads
        self.pairs = head_size // 2 if pairs is None else pairs
        self.config = model_of(
            self.heads * head_size, head_size=head_size, heads=self.heads, kv_heads=kv_heads
        )
        self.types = KVTypes.of(kv_type)
        self._layout = layout = PageLayout.of(self.config, self.types, runner.tier.lanes)
        self.window = ALL_KEYS if window is None else window
        self.cache = KVCache(
            ShuffledPool(layout, -(-context_length // PAGE_POSITIONS)), context_length
        )
        self.cache.prepare(context_length)
        self._rope = RopeTable(RopeConfig(2 * self.pairs, 10000.0)) if self.pairs else None

    def store(self, position: int, q: Array, k: Array, v: Array) -> tuple[Array, Array]:
        """Rotate q (tokens, heads, size) and k, store k and v; returns rotated q and k."""
        rotated = self._unrotated(position, q, k)
        self._runner(
            Kernel("rope_store", self.types.pair).name, 2, **rotated, v=v,
            **self._page_arguments([(position, len(q))], 1, None)[0],
        )  # fmt: skip
        return rotated["q"], rotated["k"]

    def rotate(self, position: int, q: Array, k: Array) -> tuple[Array, Array]:
        """Rotate q (tokens, heads, size) and k, and store nothing."""
        rotated = self._unrotated(position, q, k)
        self._runner(
            Kernel("rope", (self.types.keys,)).name, 2, **rotated, head_size=self.head_size,
            num_heads=self.heads, num_kv_heads=self.kv_heads, num_tokens=len(q),
        )  # fmt: skip
        return rotated["q"], rotated["k"]

    def _unrotated(self, position: int, q: Array, k: Array) -> dict[str, Any]:
        """Copies of q and k for kernels that rotate them in place, and by how much."""
        table = np.zeros((len(q), max(4, 4 * self.pairs)), np.float32)
        if self._rope is not None:
            self._rope.fill(table, position, len(q))
        queries, keys = self._runner.output(q.shape), self._runner.output(k.shape)
        queries[:], keys[:] = q, k
        strides = {"q_stride": queries.strides[0], "kv_stride": keys.strides[0]}
        return {"q": queries, "k": keys, **strides, "num_pairs": self.pairs, "cos_sin": table}

    def attend(self, position: int, q: Array, tokens_per_task: int = 1, num_threads: int = 2,
               rows: int | str | None = None, split_keys: int | None = None) -> Array:  # fmt: skip
        """Attention of rotated q (tokens, heads, size), whose keys are stored already."""
        parts = [(position, len(q))]
        return self.attend_segments(parts, q, tokens_per_task, num_threads, rows, split_keys)

    def attend_segments(
        self,
        parts: Sequence[tuple[int, int]],
        q: Array,
        tokens_per_task: int = 1,
        num_threads: int = 2,
        rows: int | str | None = None,
        split_keys: int | None = None,
    ) -> Array:
        """The same of several segments (position, number of tokens) over the same pages.

        ``rows`` of a tile, or "packed"; ``split_keys`` None: keys are not split.
        """
        method = rows or min(self.heads // self.kv_heads, MAX_ATTENTION_ROWS)
        y = self._runner.output(q.shape)
        arguments, num_tasks = self._page_arguments(parts, tokens_per_task, split_keys)
        common = {
            "y": y, "y_stride": y.strides[0], "head_size": self.head_size, "num_heads": self.heads,
            "segments": arguments["segments"], "num_segments": len(parts), "window": self.window,
        }  # fmt: skip
        self._runner(
            attention_kernel(self.types.pair, method).name, num_threads, q=q,
            q_stride=q.strides[0], scale=1.0 / math.sqrt(self.head_size),
            tokens_per_task=tokens_per_task, **{**arguments, **common, "num_tasks": num_tasks},
            **self._runner.scratch(self.config, num_threads),
        )  # fmt: skip
        self._runner("merge_attention", num_threads, **common, num_tasks=len(q))
        return y

    def _page_arguments(
        self, parts: Sequence[tuple[int, int]], tokens_per_task: int, split_keys: int | None
    ) -> tuple[dict[str, Any], int]:
        """Arguments of the kernels, those of storing, and how many tasks attending has."""
        layout = self._layout
        part_bytes = self.heads * partial_bytes(self.head_size, self._runner.panel_rows)
        room = self._runner.output((MAX_TOKEN_SPLITS // 2, part_bytes), np.uint8)
        room[:] = 0xFF
        table = SegmentTable(
            self.kv_heads, layout.block_positions, int(room.ctypes.data), part_bytes
        )
        self._held = table, room
        segments = [
            Segment(self.cache, position, np.zeros(count, np.int64), pages=self.cache.page_list)
            for position, count in parts
        ]
        self.cache.window = self.window
        with split_into(split_keys or ALL_KEYS):
            numbers = table.fill(segments, "direct", {"direct": tokens_per_task})
        arguments = {
            "head_size": self.head_size, "num_heads": self.heads, "num_kv_heads": self.kv_heads,
            "key_offset": layout.key_offset(0), "value_offset": layout.value_offset(0),
            "key_head_bytes": layout.key_head_bytes,
            "value_head_bytes": layout.value_head_bytes,
            "key_block_bytes": layout.key_block_bytes,
            "value_block_bytes": layout.value_block_bytes,
            "segments": table.address, "num_segments": len(parts),
            "num_tasks": numbers["num_store_tasks"],
        }  # fmt: skip
        return arguments, numbers["num_attend_tasks"]

    def stored_keys(self) -> Array:
        """(kv_heads, positions, head_size) as they lie in the cache, as f32."""
        scales, numbers = self._blocks(0, self.types.keys)
        if self.types.keys == "q4_0":
            pairs = numbers.reshape(*numbers.shape[:2], -1, 1, self._runner.panel_rows)
            numbers = np.concatenate([pairs & 15, pairs >> 4], axis=3)
        numbers = _as_floats(self.types.keys, numbers)
        rows = numbers.reshape(*numbers.shape[:2], -1, self._runner.panel_rows).swapaxes(2, 3)
        return self._scaled(rows[:, :, :, : self.head_size], scales)

    def stored_values(self) -> Array:
        """(kv_heads, positions, head_size) as they lie in the cache, as f32."""
        scales, numbers = self._blocks(1, self.types.values)
        if self.types.values == "q4_0":
            panels = numbers.reshape(*numbers.shape[:2], -1, 1, self._runner.tier.lanes)
            numbers = np.concatenate([panels & 15, panels >> 4], axis=3)
        numbers = _as_floats(self.types.values, numbers)
        rows = numbers.reshape(*numbers.shape[:2], self._runner.panel_rows, -1)
        return self._scaled(rows[:, :, :, : self.head_size], scales)

    def _blocks(self, part: int, kind: str) -> tuple[Array, Array]:
        """Bytes of scales, if there are any, and of numbers: (kv_heads, blocks, bytes)."""
        pages = [page for page in self.cache.pages if page is not None]
        parts = [memory_parts(page.memory, self._layout)[part][0] for page in pages]
        blocks = np.concatenate(parts, axis=1)
        num_bytes = self._runner.panel_rows * scale_bytes(kind, self.head_size)
        return blocks[:, :, :num_bytes], blocks[:, :, num_bytes:]

    def _scaled(self, rows: Array, scales: Array) -> Array:
        """(kv_heads, blocks, positions, head_size) times scales (…, 32 elements, positions)."""
        if scales.size:
            halves = np.ascontiguousarray(scales).view(np.float16).astype(np.float32)
            factors = halves.reshape(*rows.shape[:2], -1, rows.shape[2]).swapaxes(2, 3)
            elements = CACHE_SCALE_ELEMENTS["q8_0"]
            rows = rows * factors.repeat(elements, axis=3)[:, :, :, : self.head_size]
        return rows.reshape(self.kv_heads, -1, self.head_size)


def _as_floats(kind: str, numbers: Array) -> Array:
    """Stored numbers, without their scales, as f32."""
    numbers = np.ascontiguousarray(numbers)
    if kind == "bf16":
        return (numbers.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    if kind == "q4_0":
        return numbers.astype(np.float32) - 8
    dtypes = {"f32": np.float32, "f16": np.float16, "q8_0": np.int8}
    return numbers.view(dtypes[kind]).astype(np.float32)
