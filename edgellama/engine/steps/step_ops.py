"""The ops of steps that nobody runs, and the kernels that they need.

Instruments look at ops, and whoever compiles wants kernels. ``step`` runs steps.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace

from edgellama.engine.program.attention_ops import LayerAttention
from edgellama.engine.program.buffers import Rows
from edgellama.engine.program.llama_program import LlamaProgram
from edgellama.engine.program.matrix_kernels import RECORD_TILES
from edgellama.engine.program.program import Op
from edgellama.engine.program.step_values import Batch, StepKind
from edgellama.engine.steps.step_kinds import StepKinds
from edgellama.kernels_cpu.signatures import Kernel
from edgellama.quant.records import dataclass


@dataclass(frozen=True)
class StepOps:
    """Steps over pages of one layout, which ``attention`` knows; ``logits`` are rows for them."""

    writer: LlamaProgram
    kinds: StepKinds
    attention: LayerAttention
    logits: Rows

    def of(self, kind: StepKind) -> list[Op]:
        """The ops of a step, and those for the logits of its last token.

        If each token is computed as it would be alone, those for the logits of all tokens.
        """
        writer, is_many = self.writer, kind.batch == "many"
        steps = writer.body(kind, self.attention, "attended" if is_many else "end")
        if is_many:
            steps += writer.rest(self.kinds.batch_like_many(1))
        steps += writer.head(self._head_batch(kind), self.logits)
        return [step for step in steps if isinstance(step, Op)]

    def kernels(self, kinds: Set[StepKind]) -> set[Kernel]:
        """The kernels of steps of these kinds: layers of one form take the same.

        Logits are those of one token, or of all guesses. Attention takes its own, whatever the
        batch is.
        """
        layers = self.writer.weights.layers
        of_each_form = {layers[number].form: number for number in reversed(self.writer.layers)}
        heads = {self._head_batch(kind) for kind in kinds}
        steps = [op for batch in heads for op in self.writer.head(batch, self.logits)]
        for number in of_each_form.values():
            writer = replace(self.writer, layers=range(number, number + 1))
            for kind in {kind.batch: kind for kind in kinds}.values():
                steps += writer.body(kind, self.attention)
        for attending in {kind.attending for kind in kinds}:
            steps += self.attention.ops(attending, 0, self.writer.config.rotated_pairs(0))
        return {step.kernel for step in steps if isinstance(step, Op)}

    def _head_batch(self, kind: StepKind) -> Batch:
        """How logits are multiplied: of one token, or of all that have the bits of one alone."""
        return kind.batch if kind.batch in RECORD_TILES else self.kinds.batch_of(1)
