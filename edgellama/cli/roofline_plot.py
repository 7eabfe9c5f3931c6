"""A roofline: multiply-adds a second of each kernel over its multiply-adds a byte.

Under the slope an op waits for memory. The roof is the fastest kernel that was measured, since no
instrument tells what the CPU could do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgellama.cli.figures import COLOURS, new_figure, save_figure
from edgellama.measure.op_profile import OpTime, by_kernel

MARKERS = ("o", "s")
MAX_AREA = 900
"""Of a dot, in points squared: that of an op that takes the whole step."""


def draw(steps: Mapping[str, Sequence[OpTime]], bandwidth: float, path: str) -> None:
    """A dot for every kernel with products, its area its share of the step."""
    figure, axes = new_figure(8.0, 5.0)
    kernels = {
        name: [kernel for kernel in by_kernel(times) if kernel.work.num_macs and kernel.seconds]
        for name, times in steps.items()
    }
    roof = max(kernel.gmac_per_second for dots in kernels.values() for kernel in dots)
    intensities = [_intensity(kernel) for dots in kernels.values() for kernel in dots]
    left, right = min(intensities) / 3, max(max(intensities), roof / bandwidth) * 3
    knee = min(max(roof / bandwidth, left), right)
    title = f"plain read, {bandwidth:.1f} GB/s; fastest kernel"
    heights = [left * bandwidth, roof, roof]
    axes.plot([left, knee, right], heights, color="black", linewidth=1, label=title)
    for (step, dots), marker, colour in zip(kernels.items(), MARKERS, COLOURS, strict=False):
        whole = sum(time.seconds for time in steps[step])
        axes.scatter(
            [_intensity(kernel) for kernel in dots],
            [kernel.gmac_per_second for kernel in dots],
            [MAX_AREA * kernel.seconds / whole + 8 for kernel in dots],
            marker=marker,
            color=colour,
            alpha=0.6,
            linewidths=0,
            label=step,
        )
        for kernel in dots:
            axes.annotate(
                kernel.name,
                (_intensity(kernel), kernel.gmac_per_second),
                xytext=(10, 0),
                textcoords="offset points",
                fontsize=7,
                va="center",
            )
    axes.margins(x=0.12, y=0.1)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("multiply-adds a byte")
    axes.set_ylabel("GMAC/s")
    axes.grid(which="major", linewidth=0.4)
    axes.legend(frameon=False, fontsize=8, markerscale=0.5, loc="lower right")
    save_figure(figure, path)


def _intensity(kernel: OpTime) -> float:
    return kernel.work.num_macs / kernel.work.num_bytes
