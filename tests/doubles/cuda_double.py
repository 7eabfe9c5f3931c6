"""A graphics card for the whole engine: the driver's double, whose kernels run in their CPU form.

No card is behind it. What it computes is what the kernels' source says; how long it takes says
nothing. Machine code may call it by address, from any thread.
"""

from __future__ import annotations

from typing import Any

from doubles.fake_cuda import FakeCard, FakeCuda
from doubles.fake_modules import Launch
from doubles.warps import warp_runner


class CudaDouble(FakeCuda):
    """The driver's double with kernels that compute; arguments as for ``FakeCuda``."""

    def __init__(self, *cards: FakeCard, **options: Any) -> None:
        self.runner = warp_runner()
        super().__init__(*cards, run=self._compute, **options)

    def _compute(self, launch: Launch) -> None:
        self.runner.launch(launch.name, launch.grid, launch.slots, launch.shared_bytes)
