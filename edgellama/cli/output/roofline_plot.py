"""A roofline: multiply-adds per second of each kernel over its multiply-adds per byte.

Below the slope, an op waits for memory. The roof is the fastest kernel that was measured, because
no instrument tells what the CPU could do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

from edgellama.cli.output.figures import COLOURS, new_figure, plain_ticks, save_figure
from edgellama.cli.output.plot_labels import Dot, place_labels
from edgellama.measure.op_profile import OpTime, by_kernel

MARKERS = ("o", "s")
MAX_AREA = 900
"""Of a dot, in points squared: that of an op that takes the whole step."""
LEAST_AREA = 8
POINTS_A_LINE = 100
Point: TypeAlias = tuple[float, float]


def draw(title: str, steps: Mapping[str, Sequence[OpTime]], bandwidth: float, path: str) -> None:
    """A dot for every kernel with products, its area its share of the step.

    A kernel that finds its bytes in a cache, faster than memory has them, is left empty.
    """
    figure, axes = new_figure(8.0, 5.0)
    kernels = {
        name: [kernel for kernel in by_kernel(times) if kernel.work.num_macs and kernel.seconds]
        for name, times in steps.items()
    }
    corners = _draw_roof(axes, [k for dots in kernels.values() for k in dots], bandwidth)
    named: list[Dot] = []
    for (step, dots), marker, colour in zip(kernels.items(), MARKERS, COLOURS, strict=False):
        whole = sum(time.seconds for time in steps[step])
        areas = [MAX_AREA * kernel.seconds / whole + LEAST_AREA for kernel in dots]
        cached = [kernel.gb_per_second > bandwidth for kernel in dots]
        axes.scatter(
            [_intensity(kernel) for kernel in dots],
            [kernel.gmac_per_second for kernel in dots],
            areas,
            marker=marker,
            color=["none" if is_cached else colour for is_cached in cached],
            edgecolors=colour,
            alpha=0.6,
            linewidths=1,
            label=step,
        )
        named += [
            Dot(
                f"{kernel.name} (from cache)" if is_cached else kernel.name,
                *(_intensity(kernel), kernel.gmac_per_second),
                radius=area**0.5 / 2,
            )
            for kernel, area, is_cached in zip(dots, areas, cached, strict=True)
        ]
    axes.margins(x=0.12, y=0.1)
    axes.set_xscale("log")
    axes.set_yscale("log")
    plain_ticks(axes.xaxis)
    plain_ticks(axes.yaxis)
    axes.set_xlabel("multiply-adds a byte")
    axes.set_ylabel("GMAC/s")
    axes.grid(which="major", linewidth=0.4)
    figure.suptitle(title, fontsize=10)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8, markerscale=0.5)
    place_labels(figure, axes, named, _points_of(corners))
    save_figure(figure, path)


def _draw_roof(axes: Any, kernels: Sequence[OpTime], bandwidth: float) -> Sequence[Point]:
    """The slope of a plain read, up to the fastest kernel that was measured; its corners."""
    roof = max(kernel.gmac_per_second for kernel in kernels)
    intensities = [_intensity(kernel) for kernel in kernels]
    left, right = min(intensities) / 3, max(max(intensities), roof / bandwidth) * 3
    knee = min(max(roof / bandwidth, left), right)
    title = f"plain read, {bandwidth:.1f} GB/s; fastest kernel"
    corners = [(left, left * bandwidth), (knee, roof), (right, roof)]
    axes.plot(*zip(*corners, strict=True), color="black", linewidth=1, label=title)
    return corners


def _points_of(corners: Sequence[Point]) -> list[Point]:
    """Points along the lines between corners, evenly on logarithmic axes."""
    return [
        (x**share * end_x ** (1 - share), y**share * end_y ** (1 - share))
        for (x, y), (end_x, end_y) in pairwise(corners)
        for share in (step / POINTS_A_LINE for step in range(POINTS_A_LINE + 1))
    ]


def _intensity(kernel: OpTime) -> float:
    return kernel.work.num_macs / kernel.work.num_bytes
