"""An instrument for the engine: how large each column of each matrix's input is.

It adds up the squares of what matrices are multiplied with, over all tokens of all steps. An
importance matrix consists of these sums. It knows programs and buffers, but no texts and no files.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from edgellama.engine.program.hooks import Place, Site
from edgellama.engine.program.program import Op
from edgellama.engine.weights.memory import reserve_floats
from edgellama.kernels_cpu.signatures import Kernel


class InputSquares:
    """Sums of squares by matrix; give it to an Engine as a hook before the first step.

    Matrices that share an input share one array. Steps add in f32; ``take_steps`` now and then
    moves that to totals in f64, so that long texts lose no precision.
    """

    def __init__(self) -> None:
        self._step_sums: dict[str, npt.NDArray[np.float32]] = {}
        self._totals: dict[str, npt.NDArray[np.float64]] = {}
        self._names: dict[str, tuple[str, ...]] = {}

    changes_rows = False

    def wants(self, place: Place, layer: int | None) -> bool:
        """Everything that matrices are multiplied with."""
        return place not in ("residual", "logits")

    def steps(self, site: Site) -> Iterator[Op]:
        """The kernel call that adds up a site's rows, the input of all its matrices."""
        source, names = site.rows, tuple(matrix.name for matrix in site.matrices)
        sums = self._step_sums.get(names[0])
        if sums is None:
            # Sums are as long as the padded rows, so that the kernel may read whole vectors.
            sums = self._step_sums[names[0]] = reserve_floats(1, source.array.shape[1])[0]
            self._totals[names[0]] = np.zeros(source.width)
            self._names[names[0]] = names
        yield Op(
            Kernel("sum_squares"),
            {
                "x": source.address,
                "x_stride": source.stride,
                "width": source.width,
                "num_tokens": site.num_rows,
                "sums": int(sums.ctypes.data),
            },
            label=names[0],
        )

    def take_steps(self) -> None:
        """Move what the last steps have added to the totals; no step may be running."""
        for name, sums in self._step_sums.items():
            total = self._totals[name]
            total += sums[: len(total)]
            sums[:] = 0.0

    def totals(self) -> dict[str, npt.NDArray[np.float64]]:
        """f64 sums (columns,) by the name of every matrix that has been seen."""
        return {
            name: self._totals[first].copy()
            for first, names in self._names.items()
            for name in names
        }
