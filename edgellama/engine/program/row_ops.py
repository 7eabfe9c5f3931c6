"""The kernel calls that work on rows: norms, SwiGLU, activations as int8.

Each writes what the next matrices read: f32, int8 in one of two layouts, or both.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgellama.engine.program.buffers import InputRows, Rows, StepBuffers
from edgellama.engine.program.matrix_kernels import layout_of
from edgellama.engine.program.program import Arguments, Bound, Op
from edgellama.engine.program.step_values import NUM_TOKENS, Batch
from edgellama.engine.weights.weights import FloatVector, Matrix
from edgellama.kernels_cpu.signatures import QUANTIZED, Kernel
from edgellama.quant.formats import orders_of
from edgellama.quant.records import dataclass


@dataclass(frozen=True)
class RowOps:
    """Writes the calls over the rows of ``buffers``; ``epsilon`` is that of all norms.

    ``users`` are the matrices that a call's rows are multiplied with; ``is_seen``: a hook reads
    them as f32, too.
    """

    buffers: StepBuffers
    epsilon: float

    def norm(
        self,
        batch: Batch,
        source: Rows,
        weight: FloatVector,
        users: Sequence[Matrix],
        first: Bound | None = None,
        is_seen: bool = False,
    ) -> Op:
        """RMSNorm into ``buffers.normed``; ``first``: where its first row is bound."""
        arguments: Arguments = {
            "x": first or source.address,
            "x_stride": source.stride,
            "width": source.width,
            "num_tokens": NUM_TOKENS,
            "weight": int(weight.ctypes.data),
            "y": _float_address(self.buffers.normed, users, is_seen),
            "y_stride": self.buffers.normed.stride,
            "epsilon": self.epsilon,
        }
        kernel = Kernel("rms_norm", (self._layout(batch, users),))
        return Op(kernel, arguments | self._quantized_arguments(batch, self.buffers.normed, users))

    def swiglu(self, batch: Batch, user: Matrix, is_seen: bool) -> Op:
        """The product of gates and their factors, in ``buffers.gate``."""
        b = self.buffers
        arguments: Arguments = {
            "gate": b.gate.address,
            "up": b.up.address,
            "y": _float_address(b.gate, [user], is_seen),
            "stride": b.gate.stride,
            "width": b.gate.width,
            "num_tokens": NUM_TOKENS,
        }
        quantized = self._quantized_arguments(batch, b.gate, [user])
        kernel = Kernel("swiglu", (self._layout(batch, [user]),))
        return Op(kernel, arguments | quantized)

    def quantize(self, batch: Batch, rows: InputRows, users: Sequence[Matrix]) -> Op:
        """Rows as int8."""
        arguments: Arguments = {
            "x": rows.address,
            "x_stride": rows.stride,
            "width": rows.width,
            "num_tokens": NUM_TOKENS,
        }
        kernel = Kernel("quantize", (layout_of(batch),))
        return Op(kernel, arguments | self._quantized_arguments(batch, rows, users))

    def arrange(
        self, heads: Rows, num_heads: int, norm: FloatVector | None, num_pairs: int, barrier: bool
    ) -> Op:
        """Heads normed, if there is a ``norm``, and ``num_pairs`` of their halves side by side."""
        b = self.buffers
        arguments: Arguments = {
            "x": heads.address,
            "x_stride": heads.stride,
            "head_size": heads.width // num_heads,
            "num_heads": num_heads,
            "num_tokens": NUM_TOKENS,
            "weight": 0 if norm is None else int(norm.ctypes.data),
            "epsilon": self.epsilon,
            "num_pairs": num_pairs,
            "scratch": b.scratch_address,
            "scratch_stride": b.scratch_bytes,
        }
        return Op(Kernel("arrange_heads"), arguments, barrier)

    def scale_tokens(self, rows: Rows) -> Op:
        """Rows times ``buffers.query_scales``."""
        arguments: Arguments = {
            "x": rows.address,
            "x_stride": rows.stride,
            "width": rows.width,
            "num_tokens": NUM_TOKENS,
            "scales": int(self.buffers.query_scales.ctypes.data),
        }
        return Op(Kernel("scale_tokens"), arguments)

    def _layout(self, batch: Batch, users: Sequence[Matrix]) -> str:
        """Of ``signatures.LAYOUTS``."""
        is_quantized = any(user.is_quantized for user in users)
        return layout_of(batch) if is_quantized else "float"

    def _quantized_arguments(
        self, batch: Batch, rows: InputRows, users: Sequence[Matrix]
    ) -> Arguments:
        if self._layout(batch, users) == "float":
            return dict.fromkeys((*QUANTIZED, "orders"), 0)
        orders: Arguments = {"orders": orders_of(user.format_name for user in users)}
        return rows.quantized.arguments(layout_of(batch)) | orders


def _float_address(rows: Rows, users: Sequence[Matrix], is_seen: bool) -> int:
    """Where a row kernel writes f32; 0: nobody reads them."""
    return rows.address if is_seen or not all(user.is_quantized for user in users) else 0
