"""Hooks: functions that see, and may change, rows in the middle of a step.

While the program is written, each hook is asked about each place. It answers with ops of its own or
with calls of Python functions. Where no hook wants anything, nothing is added.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Literal, Protocol, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from edgellama.engine.program.buffers import Rows
from edgellama.engine.program.program import Bound, Op
from edgellama.engine.weights.weights import Matrix
from edgellama.quant.array_types import FloatRows
from edgellama.quant.error_text import shown
from edgellama.quant.errors import InvalidOptionError
from edgellama.quant.given_values import is_whole
from edgellama.quant.records import dataclass

Place: TypeAlias = Literal[
    "attention", "attended", "feed_forward", "gated", "residual", "output", "logits"
]
"""What queries, keys and values are made of; what attention gives; what gate and up are made of;
their product; the residual stream after a layer; what logits are made of; the logits."""
HookPlace: TypeAlias = Literal["residual", "attention", "logits"]
"""Where users' functions may stand."""


@dataclass(frozen=True)
class StepRows:
    """The tokens that the rows of a hook's call belong to; each array is (num_rows,).

    ``tokens`` are ids, ``positions`` those in each sequence; ``sequences`` numbers the sequences of
    a step from 0.

    Example:
        >>> import numpy as np
        >>> from edgellama import Llama, StepRows
        >>> seen: list[int] = []
        >>> def note(rows: np.ndarray, step: StepRows) -> None:
        ...     seen.extend(step.positions.tolist())
        >>> with Llama("smollm2", context_length=64) as llama:
        ...     hook = llama.add_hook(note, layers=[0])
        ...     result = llama.generate([1, 2, 3], max_tokens=1)
        >>> seen
        [0, 1, 2]
    """

    tokens: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    sequences: npt.NDArray[np.int64]

    def of(self, rows: Sequence[int]) -> StepRows:
        """The same for some of the rows."""
        chosen = list(rows)
        return StepRows(self.tokens[chosen], self.positions[chosen], self.sequences[chosen])


RowFunction: TypeAlias = Callable[[FloatRows, StepRows], None]
"""Sees rows (num_rows, width), and may change them in place."""


@dataclass(frozen=True)
class Call:
    """A Python function between two ops, over the rows that are used of ``rows``."""

    function: RowFunction
    rows: Rows
    is_of_logits: bool = False


@dataclass(frozen=True)
class Site:
    """A place of the program: rows, and the matrices that they are multiplied with.

    ``num_rows`` is how many of ``rows`` are used.
    """

    place: Place
    layer: int | None
    rows: Rows
    matrices: Sequence[Matrix]
    num_rows: Bound


class Hook(Protocol):
    """What the program asks of a hook."""

    @property
    def changes_rows(self) -> bool:
        """Whether rows may be others afterwards, so that what was made of them is made anew."""
        ...

    def wants(self, place: Place, layer: int | None) -> bool:
        """Whether the hook has anything to do at a place; ``layer`` None: outside of layers."""
        ...

    def steps(self, site: Site) -> Iterable[Op | Call]:
        """What is to be done at a site that the hook wants."""
        ...


def layer_numbers(layers: Iterable[int] | None) -> tuple[int, ...] | None:
    """The layers that a user names, None for all; InvalidOptionError for what is no list."""
    if layers is None:
        return None
    if not isinstance(layers, Iterable):
        raise InvalidOptionError(f"a hook at layers {shown(layers)}; allowed: a list, or None")
    return tuple(layers)


@dataclass(frozen=True)
class RowHook:
    """A user's function at one place of some layers, or of all."""

    function: RowFunction
    place: HookPlace = "residual"
    layers: Collection[int] | None = None

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise InvalidOptionError(f"a hook that is {shown(self.function)}; allowed: a function")
        if self.place not in get_args(HookPlace):
            allowed = ", ".join(get_args(HookPlace))
            raise InvalidOptionError(f"a hook at {self.place!r}; allowed: {allowed}")
        if self.place == "logits" and self.layers is not None:
            raise InvalidOptionError("a hook at the logits of some layers; allowed: no layers")

    def check_layers(self, num_layers: int) -> None:
        """InvalidOptionError for a layer that a model of so many does not have."""
        for layer in self.layers or ():
            if not is_whole(layer, 0) or layer >= num_layers:
                allowed = f"0 to {num_layers - 1}"
                raise InvalidOptionError(f"a hook at layer {shown(layer)}; allowed: {allowed}")

    @property
    def changes_rows(self) -> bool:
        """A function may do what it likes."""
        return True

    def wants(self, place: Place, layer: int | None) -> bool:
        """Whether this is its own place, in one of its own layers."""
        return place == self.place and (self.layers is None or layer in self.layers)

    def steps(self, site: Site) -> Iterable[Op | Call]:
        """One call."""
        yield Call(self.function, site.rows, is_of_logits=site.place == "logits")
