"""Names in plots: none lies on another, on a dot, or off the axes."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from edgellama.cli.output.figures import new_figure, plain_ticks, run_title
from edgellama.cli.output.plot_labels import Dot, place_labels

pytest.importorskip("matplotlib")


@pytest.mark.parametrize("seed", range(3))
def test_names_keep_apart(seed: int) -> None:
    """Of 25 dots, some of them in one place, every name can be read."""
    numbers = np.random.default_rng(seed)
    places = numbers.uniform(1, 100, (22, 2)).tolist()
    dots = [Dot(f"kernel_{i}", x, y, 4.0) for i, (x, y) in enumerate([*places, *3 * places[:1]])]
    figure, axes = new_figure(8.0, 5.0)
    axes.scatter([dot.x for dot in dots], [dot.y for dot in dots])
    axes.set_xscale("log")
    boxes = place_labels(figure, axes, dots)
    assert [a.overlap(b) for a, b in combinations(boxes, 2)] == pytest.approx([0.0] * 300)
    frame = axes.get_window_extent()
    for box in boxes:
        assert box.left * figure.dpi / 72 >= frame.x0 - 1e-6
        assert box.right * figure.dpi / 72 <= frame.x1 + 1e-6


def test_ticks_read_as_numbers() -> None:
    """A logarithmic axis shows 0.1, 10 and 1,000, and no powers."""
    figure, axes = new_figure(6.0, 4.0)
    axes.plot([0.01, 20_000], [1, 2])
    axes.set_xscale("log")
    plain_ticks(axes.xaxis)
    figure.draw_without_rendering()
    texts = {label.get_text() for label in axes.get_xticklabels()}
    assert {"0.1", "1", "10", "1,000"} <= texts


def test_titles() -> None:
    """A title says what ran on what."""
    assert run_title("tiny", "avx2", 1) == "tiny, avx2, 1 thread"
    assert run_title("tiny", "avx2", 2) == "tiny, avx2, 2 threads"
