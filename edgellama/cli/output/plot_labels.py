"""Places names beside the dots of a plot: none covers another one or a dot, or leaves the axes.

It works with boxes and distances in points, and does not know what is plotted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from edgellama.quant.records import dataclass

FONT_POINTS = 8.0
GAP_POINTS = 3.0
"""Between a dot and its name."""
PADDING_POINTS = 1.0
"""Around a name."""
OBSTACLE_POINTS = 3.5
"""Half the size of what else names should not cover."""
NUM_DIRECTIONS = 16
DISTANCES_POINTS = (0.0, 8.0, 16.0, 26.0, 38.0, 52.0)
"""What is tried one after the other, beyond the gap; from the third on a line leads to the dot."""


@dataclass(frozen=True)
class Dot:
    """A dot with a name; ``x`` and ``y`` are data, ``radius`` is in points."""

    text: str
    x: float
    y: float
    radius: float = 3.0


@dataclass(frozen=True)
class Box:
    """A rectangle in points of the figure."""

    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: Box) -> float:
        """Area that two boxes share."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(0.0, width) * max(0.0, height)

    @property
    def area(self) -> float:
        """Square points."""
        return (self.right - self.left) * (self.top - self.bottom)


def place_labels(
    figure: Any, axes: Any, dots: Sequence[Dot], obstacles: Sequence[tuple[float, float]] = ()
) -> list[Box]:
    """Write the name of every dot beside it; where the names lie. All else must be drawn before.

    ``obstacles`` are other points, in data, that names should not cover.
    """
    figure.draw_without_rendering()  # Settles where the axes lie.
    scale = 72.0 / figure.dpi
    frame = axes.get_window_extent()
    room = Box(*(scale * edge for edge in (frame.x0, frame.y0, frame.x1, frame.y1)))

    def place_of(x: float, y: float) -> tuple[float, float]:
        across, up = axes.transData.transform((x, y))
        return scale * across, scale * up

    places = [place_of(dot.x, dot.y) for dot in dots]
    taken = [_around(*place, dot.radius) for dot, place in zip(dots, places, strict=True)]
    taken += [_around(*place_of(*obstacle), OBSTACLE_POINTS) for obstacle in obstacles]
    boxes: list[Box] = []
    for dot, (x, y) in zip(dots, places, strict=True):
        width, height = _text_size(figure, axes, dot.text)
        candidates = list(_candidates(x, y, dot.radius, width, height))
        costs = [_cost(box, distance, taken, room) for box, distance in candidates]
        box, distance = candidates[costs.index(min(costs))]
        _write(axes, dot, box, (x, y), with_line=distance > DISTANCES_POINTS[1])
        taken.append(box)
        boxes.append(box)
    return boxes


def _text_size(figure: Any, axes: Any, text: str) -> tuple[float, float]:
    """Width and height in points."""
    drawn = axes.text(0, 0, text, fontsize=FONT_POINTS)
    extent = drawn.get_window_extent()
    drawn.remove()
    sizes = (72.0 / figure.dpi * size for size in (extent.width, extent.height))
    width, height = (size + 2 * PADDING_POINTS for size in sizes)
    return width, height


def _around(x: float, y: float, radius: float) -> Box:
    return Box(x - radius, y - radius, x + radius, y + radius)


def _candidates(
    x: float, y: float, radius: float, width: float, height: float
) -> Iterator[tuple[Box, float]]:
    """Boxes around a dot, the nearest first, each with its distance; to the right goes first."""
    for distance in DISTANCES_POINTS:
        for step in range(NUM_DIRECTIONS):
            # Labels are tried to the right first, then above and below in turns: 0, 1, -1, 2, -2
            # ...
            turn = (step + 1) // 2 * (1 if step % 2 else -1)
            angle = 2 * math.pi * turn / NUM_DIRECTIONS
            reach = radius + GAP_POINTS + distance
            near_x, near_y = x + reach * math.cos(angle), y + reach * math.sin(angle)
            left = near_x - width * (1 - math.cos(angle)) / 2
            bottom = near_y - height * (1 - math.sin(angle)) / 2
            yield Box(left, bottom, left + width, bottom + height), distance


def _cost(box: Box, distance: float, taken: Sequence[Box], room: Box) -> float:
    """What speaks against a place: what it covers, what of it is off the axes, how far it is."""
    covered = sum(box.overlap(other) for other in taken)
    outside = box.area - box.overlap(room)
    return covered + outside + 1e-3 * distance


def _write(axes: Any, dot: Dot, box: Box, place: tuple[float, float], *, with_line: bool) -> None:
    centre = (box.left + box.right) / 2, (box.bottom + box.top) / 2
    line = {"arrowstyle": "-", "linewidth": 0.5, "color": "#888888", "shrinkA": 0, "shrinkB": 2}
    axes.annotate(
        dot.text,
        (dot.x, dot.y),
        xytext=(centre[0] - place[0], centre[1] - place[1]),
        textcoords="offset points",
        fontsize=FONT_POINTS,
        ha="center",
        va="center",
        arrowprops=line if with_line else None,
    )
