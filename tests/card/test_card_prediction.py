"""What docs/cuda.md predicts of a graphics card is what the published bandwidths come to."""

from __future__ import annotations

import pytest
from cuda_prediction import MACHINES, MODELS, Machine, Reading, table
from places import DOCS

PAGE = DOCS / "cuda.md"


def test_the_page_shows_the_table() -> None:
    """As ``benchmarks/cuda_prediction.py`` prints it."""
    assert "\n".join(table()) in PAGE.read_text("utf-8")


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
@pytest.mark.parametrize("preset", MODELS.values())
def test_both_are_as_fast_at_the_depth_that_is_told(machine: Machine, preset: str) -> None:
    """Shorter texts are faster on the CPU, longer ones on the card."""
    reading = Reading.of(preset)
    depth = reading.equal_depth(machine)
    depths = (0, depth, 2 * depth)
    short, equal, long = (reading.on_cpu(machine, d) / reading.on_card(machine, d) for d in depths)
    assert equal == pytest.approx(1, rel=1e-3)
    assert short < equal < long
