"""The adapters that a text is computed with, each with a scale, and the memory they need.

Between the two products of a pair of factors there are a few numbers per token, called hidden.
Those of all matrices with the same input lie side by side. ``adapter_ops`` has the ops.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real

import numpy as np
import numpy.typing as npt

from edgellama.engine.weights.adapter import Adapter, LowRank
from edgellama.engine.weights.memory import reserve_floats, round_up
from edgellama.kernels_cpu.layouts import (
    ADDED_BYTES,
    ADDED_FORMAT,
    ADDED_RANK,
    ADDED_ROW_BYTES,
    ADDED_ROWS,
    ADDED_STRIDE,
    ADDED_WEIGHTS,
    MAX_ADDED_RANK,
)
from edgellama.quant.array_types import FloatRows
from edgellama.quant.digests import blake2b
from edgellama.quant.errors import InvalidOptionError
from edgellama.quant.formats import FLOAT_FORMATS
from edgellama.quant.records import dataclass

MAX_SCALE = 1e6
"""Far more than anybody uses; beyond it numbers end."""


@dataclass(frozen=True)
class PlacedPair:
    """A pair of factors, and the column from which on its hidden numbers stand."""

    factors: LowRank
    column: int


@dataclass(frozen=True)
class Hidden:
    """Hidden numbers of matrices that share an input.

    ``pairs``: for each matrix those of every adapter. ``scales`` (width,): what each number is
    multiplied with.
    """

    pairs: tuple[tuple[PlacedPair, ...], ...]
    scales: FloatRows

    @property
    def width(self) -> int:
        """Numbers a token, padding included."""
        return len(self.scales)


class AdapterSet:
    """Adapters with their scales, none of them 0; false where there are none.

    The same whatever order they were given in. ``origin`` stands for them among what decides
    keys and values.
    """

    def __init__(
        self, scales: Mapping[Adapter, float], num_rows: int = 0, panel_rows: int = 1
    ) -> None:
        """``num_rows``: of a step's buffers; ``panel_rows``: what rows of results are padded to."""
        pairs = sorted(scales.items(), key=lambda pair: pair[0].digest)
        self.scales = {adapter: scale for adapter, scale in pairs if scale}
        self.origin = origin_of(self.scales)
        self._num_rows = num_rows
        self._panel_rows = panel_rows
        self._placed: dict[tuple[str, ...], Hidden] = {}
        self._memory: dict[int, FloatRows] = {}
        self._added: dict[tuple[str, ...], npt.NDArray[np.int64]] = {}

    def __bool__(self) -> bool:
        return bool(self.scales)

    def __repr__(self) -> str:
        scales = {adapter.name: scale for adapter, scale in self.scales.items()}
        return f"{type(self).__name__}({scales or ''})"

    def adapts(self, name: str) -> bool:
        """Whether any adapter changes the matrix of this name."""
        return any(name in adapter.pairs for adapter in self.scales)

    def hidden(self, names: tuple[str, ...]) -> Hidden:
        """The hidden numbers of matrices with one input."""
        found = self._placed.get(names)
        if found is None:
            found = self._placed[names] = self._place(names)
        return found

    def rows(self, width: int) -> FloatRows:
        """Memory for hidden numbers of a step, the same for every width that is no larger."""
        rows = next((rows for most, rows in self._memory.items() if most >= width), None)
        if rows is None:
            rows = self._memory[width] = reserve_floats(self._num_rows, width)
        return rows

    def added(self, names: tuple[str, ...]) -> npt.NDArray[np.int64]:
        """Records (matrices, ADDED_BYTES) of what is added to products of all rows of a step.

        For kernels that add it themselves, one adapter at most: see ``can_be_added``.
        """
        found = self._added.get(names)
        if found is None:
            hidden = self.hidden(names)
            rows = self.rows(hidden.width)
            found = np.zeros((len(names), ADDED_BYTES // 8), np.int64)
            for record, pairs in zip(found, hidden.pairs, strict=True):
                for pair in pairs:
                    b = pair.factors.b
                    first = int(rows.ctypes.data) + rows.itemsize * pair.column
                    number = FLOAT_FORMATS.index(b.format_name)
                    record[:] = (
                        b.address,
                        b.row_bytes,
                        number,
                        b.num_columns,
                        first,
                        *rows.strides[:1],
                    )
            self._added[names] = found
        return found

    def can_be_added(self, names: tuple[str, ...]) -> bool:
        """Whether kernels for many rows can add what belongs to each of these matrices."""
        pairs = self.hidden(names).pairs
        ranks = [pair.factors.rank for placed in pairs for pair in placed]
        return max(map(len, pairs)) == 1 and max(ranks) <= MAX_ADDED_RANK

    def _place(self, names: tuple[str, ...]) -> Hidden:
        places: list[tuple[PlacedPair, ...]] = []
        scales: list[float] = []
        for name in names:
            placed = []
            for adapter, scale in self.scales.items():
                if (factors := adapter.pairs.get(name)) is not None:
                    placed.append(PlacedPair(factors, len(scales)))
                    scales += [scale * factors.scale] * round_up(factors.rank, self._panel_rows)
            places.append(tuple(placed))
        return Hidden(tuple(places), np.array(scales, np.float32))


def origin_of(scales: Mapping[Adapter, float]) -> bytes:
    """Bytes that stand for adapters and scales; none for none."""
    if not scales:
        return b""
    digest = blake2b(digest_size=16)
    for adapter, scale in scales.items():
        digest.update(adapter.digest + np.float64(scale).tobytes())
    return digest.digest()


def checked_scale(name: str, scale: object) -> float:
    """A scale as a number; InvalidOptionError for anything that is none."""
    is_number = isinstance(scale, Real) and not isinstance(scale, bool)
    number = float(scale) if is_number else math.nan  # type: ignore[arg-type]
    if not abs(number) <= MAX_SCALE:
        raise InvalidOptionError(
            f"the scale of adapter {name!r} is {scale!r:.40}; allowed: numbers from "
            f"{-MAX_SCALE:g} to {MAX_SCALE:g}"
        )
    return number


NO_ADAPTERS = AdapterSet({})
_WORDS = (ADDED_WEIGHTS, ADDED_ROW_BYTES, ADDED_FORMAT, ADDED_RANK, ADDED_ROWS, ADDED_STRIDE)
assert tuple(range(0, ADDED_BYTES, 8)) == _WORDS


def has_adapters(given: object) -> bool:
    """Whether there are any; what is no dictionary counts, so that whoever looks refuses it."""
    if isinstance(given, (Mapping, AdapterSet)):
        return bool(given)
    return given is not None
