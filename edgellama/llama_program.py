"""A Llama's forward pass written as the list of kernel calls that computes it.

``decode`` is for a few tokens (weights are read where they lie), ``prefill`` for many (weights
are expanded by panels); they differ only in the matrix kernels and the activations' layout.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from edgellama.buffers import MAX_ATTENTION_ROWS, Rows, StepBuffers, attention_tokens
from edgellama.kernels_cpu.signatures import QUANTIZED, SIGNATURES, decode_bytes
from edgellama.kv_types import KVTypes
from edgellama.memory import round_up
from edgellama.program import Arguments, Bound, Op
from edgellama.quant.model_config import ModelConfig
from edgellama.weights import FloatVector, LayerWeights, Matrix, ModelWeights

Mode = Literal["decode", "prefill"]
NUM_TOKENS, NUM_OUTPUTS = Bound("num_tokens"), Bound("num_outputs")
POSITION = Bound("position")
ALL_KEYS = 1 << 40
"""More keys than any context has: what a long step, which has tasks enough, splits keys at."""
MIN_CHUNK_BYTES, MAX_CHUNKS = 3 << 16, 8
"""Of a matrix, for each thread: the start of a chunk is read with nothing asked for ahead."""


class InputObserver(Protocol):
    """An instrument that sees the rows that matrices are multiplied with."""

    def op(self, source: Rows, matrices: Sequence[Matrix], num_tokens: Bound) -> Op:
        """A kernel call that reads the first ``num_tokens`` rows of the matrices' one input."""
        ...


@dataclass(frozen=True)
class LlamaProgram:
    """Writes the ops of one model for one kind of cache and number of threads.

    Without an ``observer`` nothing is spent on it: its ops are not there.
    """

    config: ModelConfig
    weights: ModelWeights
    buffers: StepBuffers
    num_threads: int
    observer: InputObserver | None = None

    def body(self, mode: Mode, types: KVTypes) -> list[Op]:
        """From token ids to the residual stream after the last layer, cache updated.

        Bound: num_tokens, position, and the cache's ``bindings`` and ``strides``.
        """
        table = self.weights.token_embd
        embed = Op(
            f"embed_{table.format_name}",
            {
                "weights": table.address,
                "row_bytes": table.row_bytes,
                "num_columns": table.num_columns,
                "tokens": int(self.buffers.token_ids.ctypes.data),
                "y": self.buffers.residual.address,
                "y_stride": self.buffers.residual.stride,
                "num_tokens": NUM_TOKENS,
            },
            label=table.name,
        )
        ops = [embed]
        for index, layer in enumerate(self.weights.layers):
            ops += self._attention(mode, layer, index, types)
            ops += self._feed_forward(mode, layer)
        if self.observer is not None:
            ops += self._observed_output(mode, self.observer)
        return ops

    def head(self, mode: Mode, logits: Rows) -> list[Op]:
        """Logits of ``num_outputs`` tokens whose residual rows begin at the bound ``first_row``.

        Both are bound, so that the head of one token can follow a body of many.
        """
        norm = self.weights.output_norm
        source = Rows(self.buffers.residual.array, len(norm))
        ops = [self._norm(mode, source, norm, [self.weights.output], Bound("first_row"))]
        ops += self._multiply(mode, [(self.weights.output, self.buffers.normed, logits)])
        return [op.with_bound(NUM_TOKENS, NUM_OUTPUTS) for op in ops]

    def _attention(
        self, mode: Mode, layer: LayerWeights, index: int, types: KVTypes
    ) -> Iterator[Op]:
        b = self.buffers
        projections = [
            (layer.attn_q, b.normed, b.query),
            (layer.attn_k, b.normed, b.key),
            (layer.attn_v, b.normed, b.value),
        ]
        yield self._norm(mode, b.residual, layer.attn_norm, [p[0] for p in projections])
        yield from self._observe(b.normed, [p[0] for p in projections])
        yield from self._multiply(mode, projections)
        yield self._rope_store(index, types)
        yield from self._attend(mode, index, types)
        yield from self._observe(b.attended, [layer.attn_output])
        if layer.attn_output.is_quantized:
            yield self._quantize(mode, b.attended)
        yield from self._multiply(
            mode, [(layer.attn_output, b.attended, b.residual)], accumulate=True
        )

    def _feed_forward(self, mode: Mode, layer: LayerWeights) -> Iterator[Op]:
        b = self.buffers
        projections = [(layer.ffn_gate, b.normed, b.gate), (layer.ffn_up, b.normed, b.up)]
        yield self._norm(mode, b.residual, layer.ffn_norm, [p[0] for p in projections])
        yield from self._observe(b.normed, [p[0] for p in projections])
        yield from self._multiply(mode, projections)
        quantized = self._quantized_arguments(mode, [layer.ffn_down])
        arguments: Arguments = {
            "gate": b.gate.address,
            "up": b.up.address,
            "y": self._float_address(b.gate, [layer.ffn_down]),
            "stride": b.gate.stride,
            "width": b.gate.width,
            "num_tokens": NUM_TOKENS,
        }
        yield Op(f"swiglu_{self._layout(mode, [layer.ffn_down])}", arguments | quantized)
        yield from self._observe(b.gate, [layer.ffn_down])
        yield from self._multiply(mode, [(layer.ffn_down, b.gate, b.residual)], accumulate=True)

    def _observe(self, source: Rows, matrices: list[Matrix]) -> Iterator[Op]:
        if self.observer is not None:
            yield self.observer.op(source, matrices, NUM_TOKENS)

    def _observed_output(self, mode: Mode, observer: InputObserver) -> Iterator[Op]:
        """The output matrix's input, of all tokens: logits are wanted of few or none."""
        b, output = self.buffers, self.weights.output
        yield self._norm(mode, b.residual, self.weights.output_norm, [output])
        yield observer.op(b.normed, [output], NUM_TOKENS)

    def _norm(
        self,
        mode: Mode,
        source: Rows,
        weight: FloatVector,
        users: list[Matrix],
        first: Bound | None = None,
    ) -> Op:
        """RMSNorm into ``buffers.normed``, quantized as well where a user of it needs that."""
        arguments: Arguments = {
            "x": first or source.address,
            "x_stride": source.stride,
            "width": source.width,
            "num_tokens": NUM_TOKENS,
            "weight": int(weight.ctypes.data),
            "y": self._float_address(self.buffers.normed, users),
            "y_stride": self.buffers.normed.stride,
            "epsilon": self.config.rms_epsilon,
        }
        name = f"rms_norm_{self._layout(mode, users)}"
        return Op(name, arguments | self._quantized_arguments(mode, users))

    def _quantize(self, mode: Mode, rows: Rows) -> Op:
        """Rows as int8."""
        arguments: Arguments = {
            "x": rows.address,
            "x_stride": rows.stride,
            "width": rows.width,
            "num_tokens": NUM_TOKENS,
        }
        return Op(f"quantize_{mode}", arguments | self.buffers.quantized.arguments(mode))

    def _layout(self, mode: Mode, users: list[Matrix]) -> str:
        return mode if any(user.is_quantized for user in users) else "float"

    def _float_address(self, rows: Rows, users: list[Matrix]) -> int:
        """Where a row kernel writes f32; 0: nobody reads them."""
        unread = self.observer is None and all(user.is_quantized for user in users)
        return 0 if unread else rows.address

    def _quantized_arguments(self, mode: Mode, users: list[Matrix]) -> Arguments:
        if self._layout(mode, users) == "float":
            return dict.fromkeys(QUANTIZED, 0)
        return self.buffers.quantized.arguments(mode)

    def _multiply(
        self, mode: Mode, products: list[tuple[Matrix, Rows, Rows]], accumulate: bool = False
    ) -> Iterator[Op]:
        """Independent products (matrix, input, output); one barrier after all of them."""
        biased = [
            (matrix.bias, output) for matrix, _, output in products if matrix.bias is not None
        ]
        for index, (matrix, source, target) in enumerate(products):
            yield self._product(
                mode, matrix, source, target, accumulate, index == len(products) - 1
            )
        for index, (bias, output) in enumerate(biased):
            yield Op(
                "add_bias",
                {
                    "x": output.address,
                    "x_stride": output.stride,
                    "width": len(bias),
                    "num_tokens": NUM_TOKENS,
                    "bias": int(bias.ctypes.data),
                },
                barrier=index == len(biased) - 1,
            )

    def _product(
        self,
        mode: Mode,
        matrix: Matrix,
        source: Rows,
        target: Rows,
        accumulate: bool,
        barrier: bool,
    ) -> Op:
        kernel = f"{'gemv' if mode == 'decode' else 'gemm'}_{matrix.format_name}"
        q = self.buffers.quantized
        arguments: Arguments = {
            "weights": matrix.address,
            "row_bytes": matrix.row_bytes,
            "num_rows": matrix.num_rows,
            "num_columns": matrix.num_columns,
            "y": target.address,
            "y_stride": target.stride,
            "accumulate": int(accumulate),
            "num_tokens": NUM_TOKENS,
            "x": source.address,
            "x_stride": source.stride,
            "chunk_rows": self._chunk_rows(matrix),
            "scratch": int(self.buffers.scratch.ctypes.data),
            "scratch_stride": self.buffers.scratch_bytes,
        }
        if matrix.is_quantized and mode == "decode":
            arguments |= {"x": q.address, "x_stride": decode_bytes(matrix.num_columns)}
        elif matrix.is_quantized:
            arguments |= {f"x{name[1:]}": value for name, value in q.arguments(mode).items()}
        taken = {p: arguments[p] for p in SIGNATURES[kernel].parameters[:-1]}
        return Op(kernel, taken, barrier, matrix.name)

    def _chunk_rows(self, matrix: Matrix) -> int:
        """Rows handed out at a time: even, the chunks alike for each thread, long to stream."""
        share_bytes = matrix.num_rows * matrix.row_bytes // self.num_threads
        num_chunks = min(max(1, share_bytes // MIN_CHUNK_BYTES), MAX_CHUNKS) * self.num_threads
        return round_up(-(-matrix.num_rows // num_chunks), 2)

    def _cache_arguments(self, index: int) -> Arguments:
        return {
            "keys": Bound("keys", index=index),
            "values": Bound("values", index=index),
            "key_head_bytes": Bound("key_head_bytes"),
            "value_head_bytes": Bound("value_head_bytes"),
            "key_block_bytes": Bound("key_block_bytes"),
            "value_block_bytes": Bound("value_block_bytes"),
            "position": POSITION,
            "num_tokens": NUM_TOKENS,
        }

    def _rope_store(self, index: int, types: KVTypes) -> Op:
        b = self.buffers
        arguments = self._cache_arguments(index) | {
            "q": b.query.address,
            "q_stride": b.query.stride,
            "k": b.key.address,
            "v": b.value.address,
            "kv_stride": b.key.stride,
            "head_size": self.config.head_size,
            "num_heads": self.config.head_count,
            "num_kv_heads": self.config.head_count_kv,
            "num_pairs": self.config.rope.dimension_count // 2,
            "cos_sin": int(b.cos_sin.ctypes.data),
        }
        return Op(f"rope_store_{types.kernel_suffix}", arguments)

    def _attend(self, mode: Mode, index: int, types: KVTypes) -> Iterator[Op]:
        """Long steps read packed keys and values, except of f32, which stay exact."""
        config, b = self.config, self.buffers
        group = config.head_count // config.head_count_kv
        is_decode = mode == "decode"
        method = str(min(group, MAX_ATTENTION_ROWS) if is_decode else MAX_ATTENTION_ROWS)
        if not is_decode and "f32" not in (types.keys, types.values):
            method = "packed"
        split_keys = Bound("split_keys") if is_decode else ALL_KEYS
        common: Arguments = {
            "y": b.attended.address,
            "y_stride": b.attended.stride,
            "head_size": config.head_size,
            "num_heads": config.head_count,
            "position": POSITION,
            "num_tokens": NUM_TOKENS,
            "split_keys": split_keys,
            "partials": int(b.partials.ctypes.data),
        }
        arguments = self._cache_arguments(index) | common
        arguments |= {
            "q": b.query.address,
            "q_stride": b.query.stride,
            "num_kv_heads": config.head_count_kv,
            "scale": 1.0 / math.sqrt(config.head_size),
            "tokens_per_task": attention_tokens(group, is_decode),
            "scratch": int(b.scratch.ctypes.data),
            "scratch_stride": b.scratch_bytes,
        }
        yield Op(f"attention_{types.kernel_suffix}_{method}", arguments)
        if is_decode:
            yield Op("merge_attention", common)
