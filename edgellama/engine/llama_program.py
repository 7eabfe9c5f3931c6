"""A Llama's forward pass written as the list of kernel calls that computes it.

``decode`` is for one token and ``short`` for a few (weights are read where they lie), ``prefill``
for many (weights are expanded by panels); they differ in the matrix kernels, the activations'
layout and the attention.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from edgellama.engine.attention_ops import AttentionOps
from edgellama.engine.buffers import InputRows, Rows, StepBuffers
from edgellama.engine.kv_types import KVTypes
from edgellama.engine.memory import round_up
from edgellama.engine.program import Arguments, Bound, Op
from edgellama.engine.step_values import NUM_OUTPUTS, NUM_TOKENS, Mode
from edgellama.engine.weights import FloatVector, LayerWeights, Matrix, ModelWeights
from edgellama.kernels_cpu.signatures import QUANTIZED, SIGNATURES, decode_bytes, orders_of
from edgellama.quant.model_config import ModelConfig

LAYOUT_OF_MODE: Mapping[Mode, str] = MappingProxyType(
    {"decode": "decode", "short": "prefill", "prefill": "prefill"}
)
MATRIX_KERNELS: tuple[Mapping[Mode, str], ...] = (
    MappingProxyType({"decode": "gemv", "short": "gemv", "prefill": "gemm"}),
    MappingProxyType({"decode": "gemv", "short": "skinny", "prefill": "gemm"}),
)
"""Of float matrices, and of quantized ones."""
PANEL_ROWS = 16
"""Rows that short steps take together on the widest tier, and a multiple of others'."""
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
        b, attention = self.buffers, AttentionOps(self.config, self.buffers)
        projections = [
            (layer.attn_q, b.normed, b.query),
            (layer.attn_k, b.normed, b.key),
            (layer.attn_v, b.normed, b.value),
        ]
        yield self._norm(mode, b.residual, layer.attn_norm, [p[0] for p in projections])
        yield from self._observe(b.normed, [p[0] for p in projections])
        yield from self._multiply(mode, projections)
        yield attention.rope_store(index, types)
        yield from attention.attend(mode, index, types)
        yield from self._observe(b.attended, [layer.attn_output])
        if layer.attn_output.is_quantized:
            yield self._quantize(mode, b.attended, layer.attn_output)
        yield from self._multiply(
            mode, [(layer.attn_output, b.attended, b.residual)], accumulate=True
        )

    def _feed_forward(self, mode: Mode, layer: LayerWeights) -> Iterator[Op]:
        b = self.buffers
        projections = [(layer.ffn_gate, b.normed, b.gate), (layer.ffn_up, b.normed, b.up)]
        yield self._norm(mode, b.residual, layer.ffn_norm, [p[0] for p in projections])
        yield from self._observe(b.normed, [p[0] for p in projections])
        if mode == "prefill" and self.observer is None and layer.is_gated_at_once:
            yield self._gate(layer)
        else:
            yield from self._multiply(mode, projections)
            yield self._swiglu(mode, layer.ffn_down)
            yield from self._observe(b.gate, [layer.ffn_down])
        yield from self._multiply(mode, [(layer.ffn_down, b.gate, b.residual)], accumulate=True)

    def _gate(self, layer: LayerWeights) -> Op:
        """The gated product of a long step as int8, whose factors are written nowhere."""
        b = self.buffers
        gate = self._product("prefill", layer.ffn_gate, b.normed, b.gate, False, True)
        arguments = gate.arguments | {"up_weights": layer.ffn_up.address}
        arguments |= b.gate.quantized.arguments("prefill")
        return Op(gate.kernel, arguments, label=f"{gate.label.removesuffix('.weight')}+up")

    def _swiglu(self, mode: Mode, user: Matrix) -> Op:
        b = self.buffers
        arguments: Arguments = {
            "gate": b.gate.address,
            "up": b.up.address,
            "y": self._float_address(b.gate, [user]),
            "stride": b.gate.stride,
            "width": b.gate.width,
            "num_tokens": NUM_TOKENS,
        }
        quantized = self._quantized_arguments(mode, b.gate, [user])
        return Op(f"swiglu_{self._layout(mode, [user])}", arguments | quantized)

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
        return Op(name, arguments | self._quantized_arguments(mode, self.buffers.normed, users))

    def _quantize(self, mode: Mode, rows: InputRows, user: Matrix) -> Op:
        """Rows as int8."""
        arguments: Arguments = {
            "x": rows.address,
            "x_stride": rows.stride,
            "width": rows.width,
            "num_tokens": NUM_TOKENS,
        }
        name = f"quantize_{LAYOUT_OF_MODE[mode]}"
        return Op(name, arguments | self._quantized_arguments(mode, rows, [user]))

    def _layout(self, mode: Mode, users: list[Matrix]) -> str:
        """Of ``signatures.LAYOUTS``."""
        is_quantized = any(user.is_quantized for user in users)
        return LAYOUT_OF_MODE[mode] if is_quantized else "float"

    def _float_address(self, rows: Rows, users: list[Matrix]) -> int:
        """Where a row kernel writes f32; 0: nobody reads them."""
        unread = self.observer is None and all(user.is_quantized for user in users)
        return 0 if unread else rows.address

    def _quantized_arguments(self, mode: Mode, rows: InputRows, users: list[Matrix]) -> Arguments:
        if self._layout(mode, users) == "float":
            return dict.fromkeys((*QUANTIZED, "orders"), 0)
        orders: Arguments = {"orders": orders_of(user.format_name for user in users)}
        return rows.quantized.arguments(LAYOUT_OF_MODE[mode]) | orders

    def _multiply(
        self, mode: Mode, products: list[tuple[Matrix, InputRows, Rows]], accumulate: bool = False
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
        source: InputRows,
        target: Rows,
        accumulate: bool,
        barrier: bool,
    ) -> Op:
        kernel = f"{MATRIX_KERNELS[matrix.is_quantized][mode]}_{matrix.format_name}"
        q = source.quantized.arguments(LAYOUT_OF_MODE[mode])
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
            **dict.fromkeys(("up_weights", *QUANTIZED), 0),
        }
        if matrix.is_quantized and mode == "decode":
            arguments |= {"x": q["q"], "x_stride": decode_bytes(matrix.num_columns)}
        elif matrix.is_quantized:
            arguments |= {f"x{name[1:]}": value for name, value in q.items()}
        taken = {p: arguments[p] for p in SIGNATURES[kernel].parameters[:-1]}
        return Op(kernel, taken, barrier, matrix.name)

    def _chunk_rows(self, matrix: Matrix) -> int:
        """Rows handed out at a time: whole panels, the chunks alike for each thread, long."""
        share_bytes = matrix.num_rows * matrix.row_bytes // self.num_threads
        num_chunks = min(max(1, share_bytes // MIN_CHUNK_BYTES), MAX_CHUNKS) * self.num_threads
        return round_up(-(-matrix.num_rows // num_chunks), PANEL_ROWS)
