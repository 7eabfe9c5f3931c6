"""How long it takes to read the weights without computing anything: the measure of a decode step.

The kernel that reads is ``matrices.bandwidth``.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgellama.engine.engine import Engine
from edgellama.engine.program.program import Op
from edgellama.engine.weights.weights import Matrix, ModelWeights
from edgellama.kernels_cpu.layouts import CACHE_LINE
from edgellama.kernels_cpu.signatures import Kernel
from edgellama.kernels_cpu.threads.thread_team import aligned_words


class PlainRead:
    """Reads all matrices of an engine's model, on its threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._sink = aligned_words(engine.num_threads * CACHE_LINE)
        self._matrices = list(step_matrices(engine.weights))
        self.num_bytes = sum(matrix.num_rows * matrix.row_bytes for matrix in self._matrices)

    def seconds(self) -> float:
        """How long one reading takes now."""
        return self._engine.run_ops("plain read", self._ops)

    def _ops(self) -> list[Op]:
        sink = int(self._sink.ctypes.data)
        return [
            Op(
                Kernel("read_bytes"),
                {
                    "address": matrix.address,
                    "num_bytes": matrix.num_rows * matrix.row_bytes,
                    "sink": sink,
                },
                barrier=matrix is self._matrices[-1],
                label=matrix.name,
            )
            for matrix in self._matrices
        ]


def step_matrices(weights: ModelWeights) -> Iterator[Matrix]:
    """The matrices that a decode step reads whole."""
    for layer in weights.layers:
        for part in vars(layer).values():
            if isinstance(part, Matrix):
                yield part
    yield weights.output
