"""Random numbers of a text, which may be looked at before they are used up.

``sampler`` and ``stages`` use them to choose.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np


class Chance(Protocol):
    """A source of numbers in [0, 1)."""

    def random(self) -> float:
        """The next of the given numbers."""
        ...


class SeededChance:
    """Numbers of a seed, or of the system's chance for None.

    Those that ``ahead`` shows are given out afterwards, in the same order.
    """

    def __init__(self, seed: int | None) -> None:
        self._seed = seed
        self._ahead: deque[float] = deque()

    def random(self) -> float:
        """The next number."""
        return self._ahead.popleft() if self._ahead else self._generator.random()

    def ahead(self, count: int) -> tuple[float, ...]:
        """The next ``count`` numbers, none of which is used up."""
        while len(self._ahead) < count:
            self._ahead.append(self._generator.random())
        return tuple(self._ahead)[:count]

    @cached_property
    def _generator(self) -> np.random.Generator:
        """Made when it is first used: importing it costs as much as a small model."""
        import numpy as np

        return np.random.default_rng(self._seed)


class GivenChance:
    """Numbers that were drawn elsewhere."""

    def __init__(self, numbers: Iterable[float]) -> None:
        self._numbers = iter(numbers)

    def random(self) -> float:
        """The next number; StopIteration where too few were given."""
        return next(self._numbers)
