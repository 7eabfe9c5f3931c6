"""Calls the kernels around a KV cache on one layer of a real one, for their tests.

How numbers lie in a cache stays in here: tests see plain arrays.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from kernel_harness import Array, KernelRunner, model_of, round_up

from edgellama.engine.buffers import MAX_ATTENTION_ROWS
from edgellama.engine.kv_cache import KVCache
from edgellama.engine.kv_types import scale_bytes
from edgellama.engine.rope import RopeTable
from edgellama.kernels_cpu.signatures import (
    CACHE_SCALE_ELEMENTS,
    MAX_KEY_SPLITS,
    PARTIAL_HEAD_BYTES,
    SIGNATURES,
)
from edgellama.quant.model_config import RopeConfig

F16_ROWS = (1, 2, 3, 5, 8)
METHODS: dict[tuple[str, str], tuple[int | str, ...]] = {
    ("f32", "f32"): (3, 8),
    ("f16", "f16"): (*F16_ROWS, "packed"),
    ("bf16", "q4_0"): (3, "packed"),
    ("q4_0", "bf16"): (3, "packed"),
    ("q8_0", "q8_0"): (3, "packed"),
}
"""The attention kernels that tests call, by types of keys and values: each type once as either.

Numbers are rows of a kernel over the cache as it is.
"""
PAIRS = tuple(METHODS)
CACHE_KERNELS = [
    "merge_attention",
    *(f"rope_store_{keys}_{values}" for keys, values in PAIRS),
    *(f"attention_{k}_{v}_{method}" for (k, v), methods in METHODS.items() for method in methods),
]
OTHER_KERNELS = [
    name for name in SIGNATURES if not name.startswith(("rope_", "attention_", "merge_"))
]


class CacheRunner:
    """Storing into and attending over one layer of a real cache, all of it NaN before."""

    def __init__(
        self,
        runner: KernelRunner,
        kv_type: str | tuple[str, str],
        head_size: int,
        kv_heads: int,
        group: int,
        context_length: int,
        pairs: int | None = None,
        freq_base: float = 10000.0,
    ) -> None:
        self._runner = runner
        self.head_size = head_size
        self.heads, self.kv_heads = kv_heads * group, kv_heads
        self.pairs = head_size // 2 if pairs is None else pairs
        self.config = model_of(
            self.heads * head_size, head_size=head_size, heads=self.heads, kv_heads=kv_heads
        )
        self.cache = KVCache(self.config, context_length, kv_type, runner.tier.lanes)
        self.types = self.cache.types
        self._keys, self._values = self.cache._keys, self.cache._values
        self._keys[:], self._values[:] = 0xFF, 0xFF
        self._rope = RopeTable(RopeConfig(2 * self.pairs, freq_base)) if self.pairs else None

    def store(self, position: int, q: Array, k: Array, v: Array) -> tuple[Array, Array]:
        """Rotate q (tokens, heads, size) and k, store k and v; returns rotated q and k."""
        num_tokens = len(q)
        table = np.zeros((num_tokens, max(4, 4 * self.pairs)), np.float32)
        if self._rope is not None:
            self._rope.fill(table, position, num_tokens)
        queries, keys = self._runner.output(q.shape), self._runner.output(k.shape)
        queries[:], keys[:] = q, k
        self._runner(
            f"rope_store_{self.types.kernel_suffix}", 2, q=queries,
            q_stride=queries.strides[0], k=keys, v=v,
            kv_stride=keys.strides[0], num_pairs=self.pairs, cos_sin=table,
            **self._cache_arguments(position, num_tokens),
        )  # fmt: skip
        return queries, keys

    def attend(self, position: int, q: Array, tokens_per_task: int = 1, num_threads: int = 2,
               rows: int | str | None = None, split_keys: int = 1 << 40) -> Array:  # fmt: skip
        """Attention of rotated q (tokens, heads, size), whose keys are stored already.

        ``rows`` of a tile, or "packed".
        """
        method = rows or min(self.heads // self.kv_heads, MAX_ATTENTION_ROWS)
        y = self._runner.output(q.shape)
        row_numbers = round_up(self.head_size, self._runner.panel_rows) + PARTIAL_HEAD_BYTES // 4
        partials = self._runner.output((len(q), self.heads, MAX_KEY_SPLITS, row_numbers))
        partials[:] = np.nan
        common = {
            "y": y, "y_stride": y.strides[0], "head_size": self.head_size, "num_heads": self.heads,
            "position": position, "num_tokens": len(q), "split_keys": split_keys,
            "partials": partials,
        }  # fmt: skip
        self._runner(
            f"attention_{self.types.kernel_suffix}_{method}", num_threads, q=q,
            q_stride=q.strides[0], scale=1.0 / math.sqrt(self.head_size),
            tokens_per_task=tokens_per_task,
            **{**self._cache_arguments(position, len(q)), **common},
            **self._runner.scratch(self.config, num_threads),
        )  # fmt: skip
        self._runner("merge_attention", num_threads, **common)
        return y

    def _cache_arguments(self, position: int, num_tokens: int) -> dict[str, Any]:
        layout = self.cache.layout
        return {
            "head_size": self.head_size, "num_heads": self.heads, "num_kv_heads": self.kv_heads,
            "keys": self._keys, "values": self._values, "key_head_bytes": layout.key_head_bytes,
            "value_head_bytes": layout.value_head_bytes,
            "key_block_bytes": layout.key_block_bytes,
            "value_block_bytes": layout.value_block_bytes,
            "position": position, "num_tokens": num_tokens,
        }  # fmt: skip

    def stored_keys(self) -> Array:
        """(kv_heads, positions, head_size) as they lie in the cache, as f32."""
        scales, numbers = self._blocks(
            self._keys, self.cache.layout.key_block_bytes, self.types.keys
        )
        if self.types.keys == "q4_0":
            pairs = numbers.reshape(*numbers.shape[:2], -1, 1, self._runner.panel_rows)
            numbers = np.concatenate([pairs & 15, pairs >> 4], axis=3)
        numbers = _as_floats(self.types.keys, numbers)
        rows = numbers.reshape(*numbers.shape[:2], -1, self._runner.panel_rows).swapaxes(2, 3)
        return self._scaled(rows[:, :, :, : self.head_size], scales)

    def stored_values(self) -> Array:
        """(kv_heads, positions, head_size) as they lie in the cache, as f32."""
        scales, numbers = self._blocks(
            self._values, self.cache.layout.value_block_bytes, self.types.values
        )
        if self.types.values == "q4_0":
            panels = numbers.reshape(*numbers.shape[:2], -1, 1, self._runner.tier.lanes)
            numbers = np.concatenate([panels & 15, panels >> 4], axis=3)
        numbers = _as_floats(self.types.values, numbers)
        rows = numbers.reshape(*numbers.shape[:2], self._runner.panel_rows, -1)
        return self._scaled(rows[:, :, :, : self.head_size], scales)

    def _blocks(self, memory: Array, block_bytes: int, kind: str) -> tuple[Array, Array]:
        """Bytes of scales, if there are any, and of numbers: (kv_heads, blocks, bytes)."""
        blocks = memory.reshape(self.kv_heads, -1, block_bytes)
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
