"""Calls single compiled kernels on NumPy arrays, for the tests of ``edgellama.kernels_cpu``.

Outputs lie between guard bytes, which every call checks. Layouts that only kernels share
(records, panels, cache blocks) stay in here: tests see plain arrays.
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np

from edgellama.buffers import MAX_ATTENTION_ROWS, StepBuffers
from edgellama.config import ModelConfig, RopeConfig
from edgellama.kernels_cpu import team_layout as layout
from edgellama.kernels_cpu.code_cache import CompiledKernels
from edgellama.kernels_cpu.cpu import Tier, available_tiers
from edgellama.kernels_cpu.signatures import (
    CACHE_SCALE_ELEMENTS,
    GEMM_TOKENS,
    MAX_KEY_SPLITS,
    PANEL_VECTORS,
    PARTIAL_HEAD_BYTES,
    SIGNATURES,
    decode_bytes,
)
from edgellama.kernels_cpu.thread_team import ENTRY
from edgellama.kv_cache import KVCache
from edgellama.kv_types import scale_bytes
from edgellama.rope import RopeTable

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

TIERS = available_tiers()
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
GUARD_BYTES = 4096
GUARD = 0xA5


def tier_name(value: object) -> str | None:
    """How pytest shows a tier among a test's parameters."""
    return value.name if isinstance(value, Tier) else None


def round_up(number: int, multiple: int) -> int:
    """The next multiple."""
    return -(-number // multiple) * multiple


def padded(rows: Array, num_rows: int, num_columns: int) -> Array:
    """Rows as f32 with NaN in the padding, which must never reach a result."""
    result = np.full((num_rows, num_columns), np.nan, np.float32)
    result[: rows.shape[0], : rows.shape[1]] = rows
    return result


def model_of(
    columns: int,
    *,
    head_size: int = 64,
    heads: int = 1,
    kv_heads: int = 1,
    pairs: int | None = None,
) -> ModelConfig:
    """A configuration whose matrices have ``columns`` columns."""
    rotated = head_size if pairs is None else 2 * pairs
    return ModelConfig(
        vocab_size=8, context_length=8, embedding_length=columns, block_count=1,
        feed_forward_length=columns, head_count=heads, head_count_kv=kv_heads, head_size=head_size,
        rms_epsilon=1e-5, rope=RopeConfig(rotated, 10000.0),
    )  # fmt: skip


class KernelRunner:
    """All kernels of one tier, loaded as they are first called."""

    def __init__(self, tier: Tier) -> None:
        self.tier = tier
        self.kernels = CompiledKernels(tier)
        self._loaded: dict[str, Any] = {}
        self._guarded: list[Array] = []

    def preload(self, names: Iterable[str]) -> None:
        """Compile and load several kernels at once."""
        wanted = [name for name in names if name not in self._loaded]
        self.kernels.ensure(wanted)
        for name in wanted:
            self._loaded[name] = ENTRY(self.kernels.address(name))

    def output(self, shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
        """An array to be filled, between guard bytes that the next call checks."""
        num_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        memory = np.full(num_bytes + 2 * GUARD_BYTES, GUARD, np.uint8)
        self._guarded.append(memory)
        return memory[GUARD_BYTES : GUARD_BYTES + num_bytes].view(dtype).reshape(shape)

    def __call__(self, name: str, num_threads: int = 1, **arguments: Any) -> None:
        """Run a kernel as thread ``num_threads - 1`` finds all tasks, then as the others do."""
        self.preload([name])
        signature = SIGNATURES[name]
        counter = np.zeros(layout.COUNTER_BYTES // 8, np.int64)
        arguments = {**arguments, "counter": counter}
        assert set(arguments) == set(signature.parameters), name
        record = b""
        for parameter in signature.parameters:
            value = arguments[parameter]
            if isinstance(value, np.ndarray):
                value = value.ctypes.data
            code = "<f4x" if parameter in signature.float_parameters else "<q"
            record += struct.pack(code, value)
        slots = np.frombuffer(record, np.int64)
        for thread in reversed(range(num_threads)):
            self._loaded[name](slots.ctypes.data, thread, 0)
        assert counter[layout.NUM_DONE // 8] == counter[layout.NUM_TASKS // 8] > 0
        guarded, self._guarded = self._guarded, []
        for memory in guarded:
            assert (memory[:GUARD_BYTES] == GUARD).all(), f"{name} wrote before its output"
            assert (memory[-GUARD_BYTES:] == GUARD).all(), f"{name} wrote behind its output"

    @property
    def panel_rows(self) -> int:
        """Rows of one panel of the matrix kernels."""
        return PANEL_VECTORS * self.tier.lanes

    def _scratch(self, config: ModelConfig, num_threads: int) -> dict[str, Any]:
        """As much scratch memory as the engine gives to a model of that shape."""
        num_bytes = StepBuffers(config, self.tier, 1, 4).scratch_bytes
        memory = self.output((num_threads, num_bytes), np.uint8)
        memory[:] = 0xFF
        return {"scratch": memory, "scratch_stride": num_bytes}

    # Matrices

    def decode_records(self, x: Array) -> Array:
        """Tokens (n, width) as the records that ``gemv`` reads."""
        num_tokens, width = x.shape
        records = self.output((num_tokens, decode_bytes(width)), np.uint8)
        self("quantize_decode", 2, x=x, x_stride=4 * width, width=width, num_tokens=num_tokens,
             q=records, q_scale=0, q_sum=0, q_half_sum=0)  # fmt: skip
        return records

    def prefill_arrays(self, x: Array, padded_tokens: int | None = None) -> dict[str, Array]:
        """Tokens (n, width) quantized in order, by the names of ``signatures.QUANTIZED``."""
        num_tokens, width = x.shape
        arrays = self._prefill_outputs(padded_tokens or num_tokens, width)
        self("quantize_prefill", 2, x=x, x_stride=4 * width, width=width, num_tokens=num_tokens,
             **arrays)  # fmt: skip
        return arrays

    def _prefill_outputs(self, num_tokens: int, width: int) -> dict[str, Array]:
        return {
            "q": self.output((num_tokens, width), np.int8),
            "q_scale": self.output((num_tokens, width // 32)),
            "q_sum": self.output((num_tokens, width // 32)),
            "q_half_sum": self.output((num_tokens, width // 16)),
        }

    def gemv(self, name: str, weights: Array, x: Array, num_threads: int = 1,
             added_to: float | None = None, chunk_rows: int = 3) -> Array:  # fmt: skip
        """weights x through ``gemv_NAME``; weights (rows, row_bytes) u8, x (n, width) f32."""
        quantized = SIGNATURES[f"gemv_{name}"].factory == "quantized_gemv"
        activations = self.decode_records(x) if quantized else x
        num_rows = len(weights)
        y = self.output((len(x), num_rows))
        y[:] = np.nan if added_to is None else added_to
        self(f"gemv_{name}", num_threads, weights=weights, row_bytes=weights.shape[1],
             num_rows=num_rows, num_columns=x.shape[1], y=y, y_stride=4 * num_rows,
             accumulate=int(added_to is not None), num_tokens=len(x), x=activations,
             x_stride=activations.strides[0], chunk_rows=chunk_rows)  # fmt: skip
        return y

    def gemm(self, name: str, weights: Array, x: Array, num_threads: int = 1,
             added_to: float | None = None) -> Array:  # fmt: skip
        """weights x through ``gemm_NAME``, with the padding that it needs."""
        num_tokens, width = x.shape
        padded_tokens = round_up(num_tokens, GEMM_TOKENS)
        padded_rows = round_up(len(weights), self.panel_rows)
        if SIGNATURES[f"gemm_{name}"].factory == "float_gemm":
            activations: dict[str, Any] = {
                "x": padded(x, padded_tokens, width),
                "x_stride": 4 * width,
            }
        else:
            arrays = self.prefill_arrays(x, padded_tokens)
            activations = {f"x{key[1:]}": array for key, array in arrays.items()}
        y = self.output((padded_tokens, padded_rows))
        y[:] = np.nan if added_to is None else added_to
        self(f"gemm_{name}", num_threads, weights=weights, row_bytes=weights.shape[1],
             num_rows=len(weights), num_columns=width, y=y, y_stride=4 * padded_rows,
             accumulate=int(added_to is not None), num_tokens=num_tokens, **activations,
             **self._scratch(model_of(width), num_threads))  # fmt: skip
        return y[:num_tokens, : len(weights)]

    def embed(self, name: str, weights: Array, num_columns: int, tokens: Sequence[int]) -> Array:
        """Rows of ``weights`` (rows, row_bytes) as f32 through ``embed_NAME``."""
        y = self.output((len(tokens), num_columns))
        self(f"embed_{name}", 2, weights=weights, row_bytes=weights.shape[1],
             num_columns=num_columns, tokens=np.array(tokens, np.int32), y=y,
             y_stride=4 * num_columns, num_tokens=len(tokens))  # fmt: skip
        return y

    # Rows

    def rms_norm(self, x: Array, weight: Array, epsilon: float, form: str = "float") -> Any:
        """The normed rows, and with ``form`` decode or prefill what ``quantize`` makes of them."""
        num_tokens, width = x.shape
        y = self.output((num_tokens, width))
        quantized = self._quantized(form, num_tokens, width)
        self(f"rms_norm_{form}", 2, x=x, x_stride=4 * width, width=width, num_tokens=num_tokens,
             weight=weight, y=y, y_stride=4 * width, epsilon=epsilon, **quantized)  # fmt: skip
        return y, quantized

    def swiglu(self, gate: Array, up: Array, form: str = "float") -> Any:
        """silu(gate) * up, and what ``quantize`` makes of it; in place, as the engine calls it."""
        num_tokens, width = gate.shape
        columns = round_up(width, max(self.panel_rows, 32))
        y = self.output((num_tokens, columns))
        y[:] = padded(gate, num_tokens, columns)
        quantized = self._quantized(form, num_tokens, width)
        self(f"swiglu_{form}", 2, gate=y, up=padded(up, num_tokens, columns), y=y,
             stride=4 * columns, width=width, num_tokens=num_tokens, **quantized)  # fmt: skip
        return y[:, :width], quantized

    def _quantized(self, form: str, num_tokens: int, width: int) -> dict[str, Any]:
        if form == "prefill":
            return self._prefill_outputs(num_tokens, width)
        none = dict.fromkeys(("q", "q_scale", "q_sum", "q_half_sum"), 0)
        if form == "float":
            return none
        return {**none, "q": self.output((num_tokens, decode_bytes(width)), np.uint8)}

    def add_bias(self, x: Array, bias: Array) -> Array:
        """x + bias."""
        y = self.output(x.shape)
        y[:] = x
        self("add_bias", 2, x=y, x_stride=y.strides[0], width=x.shape[1], num_tokens=len(x),
             bias=bias)  # fmt: skip
        return y

    def sum_squares(self, x: Array, added_to: float, num_threads: int = 2) -> Array:
        """What the kernel makes of sums that hold ``added_to``."""
        columns = round_up(x.shape[1], self.tier.lanes)
        sums = self.output((columns,))
        sums[:] = added_to
        self("sum_squares", num_threads, x=padded(x, len(x), columns), x_stride=4 * columns,
             width=x.shape[1], num_tokens=len(x), sums=sums)  # fmt: skip
        return sums[: x.shape[1]]


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
            **self._runner._scratch(self.config, num_threads),
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


@functools.cache
def runner_of(tier: Tier) -> KernelRunner:
    """The one runner of a tier in this process, so that modules share what is loaded."""
    return KernelRunner(tier)
