"""What is measured, in the order of the tables, and how values become text and ratios.

How the values are taken is left to ``workers``, how they stand on a page to ``table`` and ``plot``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Figure:
    """How to write a value: it is multiplied by ``scale`` and followed by ``unit``."""

    unit: str
    scale: float = 1.0


FIGURES = {
    "prefill": Figure("tokens/s"),
    "decode": Figure("tokens/s"),
    "first_token": Figure("s"),
    "peak_memory": Figure("MB", 1e-6),
}
"""Values are tokens per second, seconds and bytes."""


@dataclass(frozen=True)
class Quantity:
    """A figure; ``depth`` is how many tokens the context holds before those that are timed."""

    figure: str
    depth: int = 0

    def __post_init__(self) -> None:
        if self.figure not in FIGURES or self.depth < 0:
            raise ValueError(f"{self}; allowed: {', '.join(FIGURES)} at a depth of 0 or more")

    def sort_key(self) -> tuple[int, int]:
        """Its place in a table."""
        return list(FIGURES).index(self.figure), self.depth

    def text(self, value: float) -> str:
        """``value`` with its unit."""
        figure = FIGURES[self.figure]
        return f"{number(value * figure.scale)} {figure.unit}"


@dataclass(frozen=True)
class Ratio:
    """Our values over a peer's, round by round."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
        """Of values that were measured in the same rounds; ValueError if their numbers differ."""
        ratios = [own / other for own, other in zip(ours, theirs, strict=True)]
        return cls(median(ratios), min(ratios), max(ratios))

    def __str__(self) -> str:
        middle = f"{self.median:.2f}x"
        if self.lowest == self.highest:
            return middle
        return f"{middle} ({self.lowest:.2f}-{self.highest:.2f})"


def number(value: float) -> str:
    """Three significant digits, or whole numbers."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
