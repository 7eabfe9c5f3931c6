"""Calls single compiled kernels on NumPy arrays, for the tests of ``edgellama.kernels_cpu``.

Outputs lie between guard bytes, which every call checks. Layouts that only kernels share
(records, panels, cache blocks) stay in here: tests see plain arrays.
"""

from __future__ import annotations

import functools
import math
import os
import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pytest

from edgellama.engine.program.buffers import StepBuffers
from edgellama.kernels_cpu.compiling.code_cache import CompiledKernels
from edgellama.kernels_cpu.layouts import PANEL_VECTORS, TOKEN_PADDING, records_bytes
from edgellama.kernels_cpu.machine.cpu import GENERIC, Tier, available_tiers
from edgellama.kernels_cpu.signatures import (
    QUANTIZED,
    RECORD_TILES,
    SIGNATURES,
    SKINNY_TILES,
    Kernel,
    kernels_by_name,
)
from edgellama.kernels_cpu.threads import team_layout as layout
from edgellama.kernels_cpu.threads.thread_team import ENTRY
from edgellama.quant.formats import (
    FLOAT_FORMATS,
    FORMATS_BY_NAME,
    QUANTIZED_FORMATS,
    orders_of,
)
from edgellama.quant.model_config import ModelConfig
from edgellama.quant.rope_config import RopeConfig

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

ALL_TIERS_VARIABLE = "EDGELLAMA_TEST_ALL_TIERS"
EVERYTHING = bool(os.environ.get(ALL_TIERS_VARIABLE))
"""Whether every kernel is called on every tier."""
TIERS = tuple(
    tier
    for number, tier in enumerate(available_tiers())
    if number == 0 or tier == GENERIC or EVERYTHING
)
"""The fastest tier and the reference; those between take minutes more, to compile above all."""
TILES = {
    kind: [
        (name, tile)
        for name in QUANTIZED_FORMATS
        for tile in tiles
        if Kernel(kind, (name, tile)) in SIGNATURES
    ]
    for kind, tiles in (("gemv", RECORD_TILES), ("skinny", SKINNY_TILES[1:]))
}
"""Formats and numbers of tokens of kernels that multiply several at once, by their kind.

``skinny`` has one for two tokens besides, which the tests of all formats call.
"""
TILE_KERNELS = [Kernel(kind, case).name for kind, cases in TILES.items() for case in cases]
SAMPLED_FORMATS = ("Q4_0", "Q4_K")
"""Whose ``TILES`` the default run calls on every tier. What the others add to it is the reading of
their blocks, which it sees on every tier too: in ``gemv``, and in the kernel for two tokens.
"""
READ_ONLY_FORMATS = tuple(n for n in QUANTIZED_FORMATS if not FORMATS_BY_NAME[n].writers)
"""Of files that others write. The default run tests their kernels in ``test_kernel_codebooks``, on
the fastest tier alone; what formats have in common is tested with the others."""
SUM = np.dtype([("scaled", np.float32), ("start", np.int32)])
GUARD_BYTES = 4096
GUARD = 0xA5


def is_sampled(tier: Tier, name: str) -> bool:
    """Whether the default run calls the ``TILES`` of a format on a tier."""
    is_usual = tier is TIERS[0] and name not in READ_ONLY_FORMATS
    return is_usual or name in SAMPLED_FORMATS or EVERYTHING


def sampled_kernels(tier: Tier, names: Iterable[str]) -> list[str]:
    """Those of the kernels ``names`` that the default run calls on a tier."""
    cases = ((kind, *case) for kind, each in TILES.items() for case in each)
    left = {Kernel(kind, (n, tile)).name for kind, n, tile in cases if not is_sampled(tier, n)}
    return [name for name in names if name not in left]


def formats(names: Sequence[str]) -> list[Any]:
    """Formats as a test's parameters, those that are only read marked slow."""
    slow = pytest.mark.slow
    return [pytest.param(n, marks=[slow] * (n in READ_ONLY_FORMATS)) for n in names]


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


def all_orders(width: int) -> int:
    """The orders of super-blocks that rows so wide can have."""
    return orders_of(QUANTIZED_FORMATS) if width % 256 == 0 else 0


def argument_slots(
    parameters: Sequence[str], float_parameters: Collection[str], arguments: Mapping[str, Any]
) -> bytes:
    """A kernel's arguments as it takes them, 8 bytes each; arrays stand for their addresses."""
    assert set(arguments) == set(parameters)
    slots = b""
    for parameter in parameters:
        value = arguments[parameter]
        if isinstance(value, np.ndarray):
            value = value.ctypes.data
        slots += struct.pack("<f4x" if parameter in float_parameters else "<q", value)
    return slots


class KernelRunner:
    """All kernels of one tier, loaded as they are first called."""

    def __init__(self, tier: Tier) -> None:
        self.tier = tier
        self.kernels = CompiledKernels(tier)
        self._loaded: dict[str, Any] = {}
        self._guarded: list[Array] = []
        self._held: list[Array] = []

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
        signature = SIGNATURES[kernels_by_name()[name]]
        counter = np.zeros(layout.COUNTER_BYTES // 8, np.int64)
        arguments = {**arguments, "counter": counter}
        packed = argument_slots(signature.parameters, signature.float_parameters, arguments)
        slots = np.frombuffer(packed, np.int64)
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

    def scratch(self, config: ModelConfig, num_threads: int) -> dict[str, Any]:
        """As much scratch memory as the engine gives to a model of that shape."""
        num_bytes = StepBuffers(config, self.tier, 1, 4).scratch_bytes
        memory = self.output((num_threads, num_bytes), np.uint8)
        memory[:] = 0xFF
        return {"scratch": memory, "scratch_stride": num_bytes}

    # Matrices

    def records(self, x: Array, orders: int | None = None) -> Array:
        """Tokens (n, width) as the records that ``gemv`` reads, of some orders or all there are."""
        num_tokens, width = x.shape
        records = self.output((num_tokens, records_bytes(width)), np.uint8)
        self("quantize_records", 2, x=x, x_stride=4 * width, width=width, num_tokens=num_tokens,
             q=records, q_scale=0, q_sum=0, q_half_sum=0,
             orders=all_orders(width) if orders is None else orders)  # fmt: skip
        return records

    def arrays_in_order(self, x: Array, padded_tokens: int | None = None) -> dict[str, Array]:
        """Tokens (n, width) quantized in order, by the names of ``signatures.QUANTIZED``."""
        num_tokens, width = x.shape
        arrays = self._outputs_in_order(padded_tokens or num_tokens, width)
        self("quantize_in_order", 2, x=x, x_stride=4 * width, width=width, num_tokens=num_tokens,
             **arrays, orders=0)  # fmt: skip
        return arrays

    def _outputs_in_order(self, num_tokens: int, width: int) -> dict[str, Array]:
        return {
            "q": self.output((num_tokens, width), np.int8),
            "q_scale": self.output((num_tokens, width // 32)),
            "q_sum": self.output((num_tokens, width // 32), SUM),
            "q_half_sum": self.output((num_tokens, width // 16), SUM),
        }

    def gemv(self, name: str, weights: Array, x: Array, num_threads: int = 1,
             added_to: float | None = None, chunk_rows: int = 3,
             tile: int = 1) -> Array:  # fmt: skip
        """weights x through ``gemv_NAME``; weights (rows, row_bytes) u8, x (n, width) f32."""
        tile_name = f"_{tile}" if tile > 1 else ""
        quantized = name in QUANTIZED_FORMATS
        activations = self.records(x, orders_of([name])) if quantized else x
        num_rows = len(weights)
        y = self.output((len(x), num_rows))
        y[:] = np.nan if added_to is None else added_to
        self(f"gemv_{name}{tile_name}", num_threads, weights=weights, row_bytes=weights.shape[1],
             num_rows=num_rows, num_columns=x.shape[1], y=y, y_stride=4 * num_rows,
             accumulate=int(added_to is not None), num_tokens=len(x), x=activations,
             x_stride=activations.strides[0], chunk_rows=chunk_rows)  # fmt: skip
        return y

    def skinny(self, name: str, weights: Array, x: Array, num_threads: int = 1,
               added_to: float | None = None, chunk_rows: int = 20,
               tile: int = SKINNY_TILES[0]) -> Array:  # fmt: skip
        """weights x through ``skinny_NAME``, by default in chunks that end in single rows."""
        num_rows = len(weights)
        y = self.output((len(x), num_rows))
        y[:] = np.nan if added_to is None else added_to
        self(f"skinny_{name}_{tile}", num_threads, weights=weights, row_bytes=weights.shape[1],
             num_rows=num_rows, num_columns=x.shape[1], y=y, y_stride=4 * num_rows,
             accumulate=int(added_to is not None), num_tokens=len(x), chunk_rows=chunk_rows,
             **self._panel_arrays(x))  # fmt: skip
        return y

    def gemm(self, name: str, weights: Array, x: Array, num_threads: int = 1,
             added_to: float | None = None, added: Any = 0) -> Array:  # fmt: skip
        """weights x through ``gemm_NAME``, with the padding that it needs; ``added`` as told."""
        num_tokens, width = x.shape
        padded_tokens = round_up(num_tokens, TOKEN_PADDING)
        padded_rows = round_up(len(weights), self.panel_rows)
        if name not in QUANTIZED_FORMATS:
            activations: dict[str, Any] = {
                "x": padded(x, padded_tokens, width),
                "x_stride": 4 * width,
            }
        else:
            activations = self._panel_arrays(x) | dict.fromkeys(("up_weights", *QUANTIZED), 0)
            activations["added"] = added
        y = self.output((padded_tokens, padded_rows))
        y[:] = np.nan if added_to is None else added_to
        self(f"gemm_{name}", num_threads, weights=weights, row_bytes=weights.shape[1],
             num_rows=len(weights), num_columns=width, y=y, y_stride=4 * padded_rows,
             accumulate=int(added_to is not None), num_tokens=num_tokens, **activations,
             **self.scratch(model_of(width), num_threads))  # fmt: skip
        return y[:num_tokens, : len(weights)]

    def added(self, products: Sequence[tuple[str, Array, Array]]) -> Array:
        """Records of products (float format, matrix, rows) that ``gemm`` and ``gated`` add."""
        records = []
        for name, weights, x in products:
            rank = x.shape[1]
            rows = padded(x, round_up(len(x), TOKEN_PADDING), rank)
            self._held += [weights, rows]
            address, number = int(weights.ctypes.data), FLOAT_FORMATS.index(name)
            records.append(
                (address, weights.shape[1], number, rank, int(rows.ctypes.data), 4 * rank)
            )
        return np.array(records, np.int64)

    def gated(
        self, name: str, gate: Array, up: Array, x: Array, added: Any = 0
    ) -> dict[str, Array]:
        """silu(gate x) * (up x) through ``gemm_NAME``, as ``arrays_in_order`` gives it."""
        num_tokens, width = x.shape
        activations = self._panel_arrays(x)
        quantized = self._outputs_in_order(num_tokens, len(gate))
        self(f"gemm_{name}", 3, weights=gate, row_bytes=gate.shape[1], num_rows=len(gate),
             num_columns=width, y=0, y_stride=0, accumulate=0, num_tokens=num_tokens,
             **activations, up_weights=up, added=added, **quantized,
             **self.scratch(model_of(width), 3))  # fmt: skip
        return quantized

    def _panel_arrays(self, x: Array) -> dict[str, Array]:
        """What ``gemm`` and ``skinny`` read of quantized tokens, by their names."""
        arrays = self.arrays_in_order(x, round_up(len(x), TOKEN_PADDING))
        return {f"x{key[1:]}": array for key, array in arrays.items()}

    def embed(self, name: str, weights: Array, num_columns: int, tokens: Sequence[int]) -> Array:
        """Rows of ``weights`` (rows, row_bytes) as f32 through ``embed_NAME``."""
        y = self.output((len(tokens), num_columns))
        self(f"embed_{name}", 2, weights=weights, row_bytes=weights.shape[1],
             num_columns=num_columns, tokens=np.array(tokens, np.int32), y=y,
             y_stride=4 * num_columns, num_tokens=len(tokens))  # fmt: skip
        return y

    # Rows

    def rms_norm(
        self, x: Array, weight: Array, epsilon: float, form: str = "float", *, keep: bool = True
    ) -> Any:
        """The normed rows, and with ``form`` records or in_order what ``quantize`` makes of them.

        Without ``keep`` the kernel is told that nobody reads the rows.
        """
        num_tokens, width = x.shape
        y = self.output((num_tokens, width))
        quantized = self._quantized(form, num_tokens, width)
        self(f"rms_norm_{form}", 2, x=x, x_stride=4 * width, width=width, num_tokens=num_tokens,
             weight=weight, y=y if keep else 0, y_stride=4 * width, epsilon=epsilon,
             **quantized, orders=all_orders(width))  # fmt: skip
        return y, quantized

    def arrange_heads(
        self, x: Array, weight: Array | None, epsilon: float, num_pairs: int
    ) -> Array:
        """Heads (tokens, heads, size) as the kernel leaves them; rows end in a vector's padding."""
        num_tokens, num_heads, size = x.shape
        columns = round_up(num_heads * size, self.tier.lanes)
        y = self.output((num_tokens, columns))
        y[:] = padded(x.reshape(num_tokens, -1), num_tokens, columns)
        self("arrange_heads", 2, x=y, x_stride=4 * columns, head_size=size, num_heads=num_heads,
             num_tokens=num_tokens, weight=0 if weight is None else weight, epsilon=epsilon,
             num_pairs=num_pairs,
             **self.scratch(model_of(size, head_size=size, heads=num_heads), 2))  # fmt: skip
        return y[:, : num_heads * size].reshape(x.shape)

    def swiglu(self, gate: Array, up: Array, form: str = "float", *, keep: bool = True) -> Any:
        """silu(gate) * up, in place, and what ``quantize`` makes of it; ``keep`` as above."""
        num_tokens, width = gate.shape
        columns = round_up(width, max(self.panel_rows, 32))
        y = self.output((num_tokens, columns))
        y[:] = padded(gate, num_tokens, columns)
        quantized = self._quantized(form, num_tokens, width)
        self(f"swiglu_{form}", 2, gate=y, up=padded(up, num_tokens, columns), y=y if keep else 0,
             stride=4 * columns, width=width, num_tokens=num_tokens, **quantized,
             orders=all_orders(width))  # fmt: skip
        return y[:, :width], quantized

    def _quantized(self, form: str, num_tokens: int, width: int) -> dict[str, Any]:
        if form == "in_order":
            return self._outputs_in_order(num_tokens, width)
        none = dict.fromkeys(("q", "q_scale", "q_sum", "q_half_sum"), 0)
        if form == "float":
            return none
        return {**none, "q": self.output((num_tokens, records_bytes(width)), np.uint8)}

    def add_bias(self, x: Array, bias: Array) -> Array:
        """x + bias."""
        y = self.output(x.shape)
        y[:] = x
        self("add_bias", 2, x=y, x_stride=y.strides[0], width=x.shape[1], num_tokens=len(x),
             bias=bias)  # fmt: skip
        return y

    def scale_rows(self, x: Array, scales: Array, num_tokens: int, multiple: int) -> Array:
        """x * scales in the first ``num_tokens`` of rows that are padded to vectors."""
        columns = round_up(x.shape[1], self.tier.lanes)
        y = self.output((len(x), columns))
        y[:] = padded(x, len(x), columns)
        self("scale_rows", 2, x=y, x_stride=4 * columns, width=x.shape[1], num_tokens=num_tokens,
             multiple=multiple, scales=padded(scales[None], 1, columns))  # fmt: skip
        return y[:, : x.shape[1]]

    def scale_tokens(self, x: Array, scales: Array) -> Array:
        """x * scales, token by token; rows are padded to vectors."""
        columns = round_up(x.shape[1], self.tier.lanes)
        y = self.output((len(x), columns))
        y[:] = padded(x, len(x), columns)
        self("scale_tokens", 2, x=y, x_stride=4 * columns, width=x.shape[1], num_tokens=len(x),
             scales=scales)  # fmt: skip
        return y[:, : x.shape[1]]

    def sum_squares(self, x: Array, added_to: float, num_threads: int = 2) -> Array:
        """What the kernel makes of sums that hold ``added_to``."""
        columns = round_up(x.shape[1], self.tier.lanes)
        sums = self.output((columns,))
        sums[:] = added_to
        self("sum_squares", num_threads, x=padded(x, len(x), columns), x_stride=4 * columns,
             width=x.shape[1], num_tokens=len(x), sums=sums)  # fmt: skip
        return sums[: x.shape[1]]


@functools.cache
def runner_of(tier: Tier) -> KernelRunner:
    """The one runner of a tier in this process, so that modules share what is loaded."""
    return KernelRunner(tier)
