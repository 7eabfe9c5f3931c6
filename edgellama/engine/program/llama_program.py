"""A Llama's forward pass, written as the list of kernel calls that computes it.

Products with one token read weights in an order of their own. Those with a few tokens read as many
rows as a vector has lanes, and those with many expand panels of rows. Activations are laid out as
each of them reads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

from edgellama.engine.program.adapter_ops import AdapterOps, Product
from edgellama.engine.program.attention_ops import LayerAttention
from edgellama.engine.program.buffers import InputRows, Rows, StepBuffers
from edgellama.engine.program.hooks import Call, Hook, Place, Site
from edgellama.engine.program.matrix_kernels import chunk_rows, kernel_of, layout_of
from edgellama.engine.program.program import Arguments, Bound, Op
from edgellama.engine.program.row_ops import RowOps
from edgellama.engine.program.step_values import (
    LOGITS,
    NUM_OUTPUTS,
    NUM_TOKENS,
    Batch,
    Reach,
    StepKind,
)
from edgellama.engine.weights.weights import FloatVector, LayerWeights, Matrix, ModelWeights
from edgellama.kernels_cpu.layouts import records_bytes
from edgellama.kernels_cpu.signatures import QUANTIZED, Kernel
from edgellama.quant.model_config import ModelConfig
from edgellama.quant.records import dataclass


@dataclass(frozen=True)
class LlamaProgram:
    """Writes the ops of one model, or of some of its layers, for a number of threads.

    ``layers``: which of the model's layers run. ``hooks`` are asked at every place; where none
    wants anything, nothing is there. Nor do ``adapters`` add anything where they have no groups of
    rows.
    """

    config: ModelConfig
    weights: ModelWeights
    buffers: StepBuffers
    num_threads: int
    layers: range
    adapters: AdapterOps
    is_exact: bool = False
    hooks: tuple[Hook, ...] = ()

    def body(
        self, kind: StepKind, attention: LayerAttention, reach: Reach = "end"
    ) -> list[Op | Call]:
        """From token ids, or residual rows, to the residual stream after the last layer.

        ``reach``: where it ends earlier, ``rest`` follows, for some of the rows or for none; then
        there are no hooks. Bound: num_tokens, and what ``attention`` binds.
        """
        ops: list[Op | Call] = [] if self.layers.start else [*self._embed()]
        for index, number in enumerate(self.layers):
            is_last = number == self.layers[-1]
            ops += self._attention(kind, attention, index, is_last and reach == "stored")
            if not is_last or reach == "end":
                ops += self._rest(kind.batch, number)
        if reach == "end":
            ops += self._seen_output(kind.batch)
        return ops

    def rest(self, batch: Batch) -> list[Op | Call]:
        """From the last layer's attention to the end of a body, of ``num_outputs`` first rows."""
        ops = [op for op in self._rest(batch, self.layers[-1]) if isinstance(op, Op)]
        return [op.with_bound(NUM_TOKENS, NUM_OUTPUTS) for op in ops]

    def head(self, batch: Batch, logits: Rows) -> list[Op | Call]:
        """Logits of ``num_outputs`` tokens whose residual rows begin at the bound ``first_row``.

        Both are bound, so that the head of one token can follow a body of many. So is the address
        of the ``logits``, where neither hooks nor adapters need to know it.
        """
        norm = self.weights.output_norm
        source = Rows(self.buffers.residual.array, len(norm))
        ops = [self._rows.norm(batch, source, norm, [self.weights.output], Bound("first_row"))]
        ops += self._multiply(batch, [(self.weights.output, self.buffers.normed, logits)])
        counted = [op.with_bound(NUM_TOKENS, NUM_OUTPUTS) for op in ops]
        if not self.hooks and not self.adapters.groups:
            counted = [op.with_bound(logits.address, LOGITS) for op in counted]
        return [*counted, *self._hooked("logits", None, logits, [], NUM_OUTPUTS)]

    @cached_property
    def _rows(self) -> RowOps:
        return RowOps(self.buffers, self.config.rms_epsilon)

    def _embed(self) -> Iterator[Op]:
        table = self.weights.token_embd
        yield Op(
            Kernel("embed", (table.format_name,)),
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
        yield from self.adapters.embedding(table, self.buffers.residual)

    def _attention(
        self, kind: StepKind, attention: LayerAttention, index: int, is_only_stored: bool
    ) -> Iterator[Op | Call]:
        """A layer until its attention is done, or its keys and values are stored."""
        b, batch, number = self.buffers, kind.batch, self.layers[index]
        layer = self.weights.layers[number]
        projections = [
            (layer.attn_q, b.normed, b.query),
            (layer.attn_k, b.normed, b.key),
            (layer.attn_v, b.normed, b.value),
        ][is_only_stored:]
        yield from self._normed("attention", batch, layer.attn_norm, projections, number)
        yield from self._multiply(batch, projections)
        yield from self._arranged(number, is_only_stored)
        write = attention.stores if is_only_stored else attention.ops
        yield from write(kind.attending, index, self.config.rotated_pairs(number))

    def _arranged(self, number: int, is_only_stored: bool) -> Iterator[Op]:
        """Norms of queries and keys, their elements in the order of a Llama, growing queries."""
        config, b, layer = self.config, self.buffers, self.weights.layers[number]
        num_pairs = config.rotated_pairs(number) if config.is_half_split else 0
        heads = [
            (b.query, config.head_count, layer.attn_q_norm),
            (b.key, config.head_count_kv, layer.attn_k_norm),
        ][is_only_stored:]
        if num_pairs or config.has_head_norms:
            for rows, num_heads, norm in heads:
                yield self._rows.arrange(rows, num_heads, norm, num_pairs, rows is b.key)
        if config.rope.temperature_scale and not is_only_stored:
            yield self._rows.scale_tokens(b.query)

    def _rest(self, batch: Batch, number: int) -> Iterator[Op | Call]:
        """A layer from its attention on."""
        b, layer = self.buffers, self.weights.layers[number]
        yield from self._hooked("attended", number, b.attended, [layer.attn_output])
        if layer.attn_output.is_quantized:
            yield self._rows.quantize(batch, b.attended, [layer.attn_output])
        yield from self._multiply(
            batch, [(layer.attn_output, b.attended, b.residual)], accumulate=True
        )
        yield from self._feed_forward(batch, layer, number)
        yield from self._hooked("residual", number, b.residual, [])

    def _feed_forward(self, batch: Batch, layer: LayerWeights, number: int) -> Iterator[Op | Call]:
        b = self.buffers
        projections = [(layer.ffn_gate, b.normed, b.gate), (layer.ffn_up, b.normed, b.up)]
        yield from self._normed("feed_forward", batch, layer.ffn_norm, projections, number)
        is_seen = self._is_wanted("gated", number)
        is_at_once = batch == "many" and not is_seen and layer.is_gated_at_once
        if is_at_once and self.adapters.can_be_added(batch, projections):
            yield from self.adapters.before(batch, projections)
            yield self._gate(layer, self.adapters.added(projections)[0])
        elif is_at_once and not self.adapters.adapts([layer.ffn_gate, layer.ffn_up]):
            yield self._gate(layer)
        else:
            yield from self._multiply(batch, projections)
            yield self._rows.swiglu(batch, layer.ffn_down, is_seen)
            yield from self._hooked("gated", number, b.gate, [layer.ffn_down])
        yield from self._multiply(batch, [(layer.ffn_down, b.gate, b.residual)], accumulate=True)

    def _normed(
        self,
        place: Place,
        batch: Batch,
        norm: FloatVector,
        products: list[Product],
        layer: int,
    ) -> Iterator[Op | Call]:
        """RMSNorm of the residual stream, and what hooks do to its result."""
        b, users = self.buffers, [matrix for matrix, _, _ in products]
        yield self._rows.norm(batch, b.residual, norm, users, is_seen=self._is_wanted(place, layer))
        yield from self._hooked(place, layer, b.normed, users)
        is_changed = any(hook.changes_rows for hook in self.hooks if hook.wants(place, layer))
        if is_changed and any(user.is_quantized for user in users):
            yield self._rows.quantize(batch, b.normed, users)

    def _is_wanted(self, place: Place, layer: int | None) -> bool:
        return any(hook.wants(place, layer) for hook in self.hooks)

    def _hooked(
        self,
        place: Place,
        layer: int | None,
        rows: Rows,
        matrices: Sequence[Matrix],
        num_rows: Bound = NUM_TOKENS,
    ) -> Iterator[Op | Call]:
        if not self.hooks:
            return
        site = Site(place, layer, rows, matrices, num_rows)
        for hook in self.hooks:
            if hook.wants(place, layer):
                yield from hook.steps(site)

    def _gate(self, layer: LayerWeights, added: int = 0) -> Op:
        """The gated product of a long step as int8, whose factors are written nowhere.

        ``added``: where two records say what adapters add to the factors.
        """
        b = self.buffers
        gate = self._product("many", layer.ffn_gate, b.normed, b.gate, False, True)
        arguments = gate.arguments | {"up_weights": layer.ffn_up.address, "added": added}
        arguments |= b.gate.quantized.arguments("in_order")
        return Op(gate.kernel, arguments, label=f"{gate.label.removesuffix('.weight')}+up")

    def _seen_output(self, batch: Batch) -> Iterator[Op | Call]:
        """The output matrix's input, of all tokens, if any hook wants it: few logits are made."""
        b, output = self.buffers, self.weights.output
        if self._is_wanted("output", None):
            yield self._rows.norm(
                batch, b.residual, self.weights.output_norm, [output], is_seen=True
            )
            yield from self._hooked("output", None, b.normed, [output])

    def _multiply(
        self, batch: Batch, products: list[Product], accumulate: bool = False
    ) -> Iterator[Op]:
        """Independent products of rows with one input; one barrier after all of them."""
        is_added = self.adapters.can_be_added(batch, products)
        added = self.adapters.added(products) if is_added else [0] * len(products)
        if is_added:
            yield from self.adapters.before(batch, products)
        else:
            yield from self.adapters.into(batch, products)
        biased = [
            (matrix.bias, output) for matrix, _, output in products if matrix.bias is not None
        ]
        for index, (matrix, source, target) in enumerate(products):
            yield self._product(
                batch, matrix, source, target, accumulate, index == len(products) - 1, added[index]
            )
        if not is_added:
            yield from self.adapters.out_of(products)
        for index, (bias, output) in enumerate(biased):
            yield Op(
                Kernel("add_bias"),
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
        batch: Batch,
        matrix: Matrix,
        source: InputRows,
        target: Rows,
        accumulate: bool,
        barrier: bool,
        added: int = 0,
    ) -> Op:
        kernel = kernel_of(matrix, batch, self.is_exact)
        arguments: Arguments = {
            "weights": matrix.address,
            "row_bytes": matrix.row_bytes,
            "num_rows": matrix.num_rows,
            "num_columns": matrix.num_columns,
            "y": target.address,
            "y_stride": target.stride,
            "accumulate": int(accumulate),
            "num_tokens": NUM_TOKENS,
        }
        if kernel.family != "gemm":
            arguments["chunk_rows"] = chunk_rows(matrix, self.num_threads)
        arguments |= self._input(batch, matrix, source)
        if kernel.family == "gemm":
            b = self.buffers
            arguments |= {"scratch": b.scratch_address, "scratch_stride": b.scratch_bytes}
            if matrix.is_quantized:
                arguments |= dict.fromkeys(("up_weights", *QUANTIZED), 0) | {"added": added}
        return Op(kernel, arguments, barrier, matrix.name)

    def _input(self, batch: Batch, matrix: Matrix, source: InputRows) -> Arguments:
        """What a matrix is multiplied with, as its kernel reads it."""
        if not matrix.is_quantized:
            return {"x": source.address, "x_stride": source.stride}
        layout = layout_of(batch)
        q = source.quantized.arguments(layout)
        if layout == "records":
            return {"x": q["q"], "x_stride": records_bytes(matrix.num_columns)}
        return {f"x{name[1:]}": value for name, value in q.items()}
