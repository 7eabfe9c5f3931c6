"""Files with a plot: the possible formats, and an empty figure to draw in.

matplotlib is an optional package, and is looked for before any work is done. The ``*_plot`` modules
draw.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgellama.quant.errors import InvalidOptionError
from edgellama.quant.ways import install_command

SUFFIXES = (".png", ".svg", ".pdf")
COLOURS = ("#3b6ea5", "#e08e45", "#5fa55a", "#9c6bb3", "#8c8c8c", "#c44e52", "#64b5cd", "#ccb974")


def check_plot(path: str | None) -> None:
    """Refuse a file that cannot be drawn; InvalidOptionError."""
    if path is None:
        return
    if Path(path).suffix.lower() not in SUFFIXES:
        raise InvalidOptionError(
            f"a plot in {path}; allowed: files ending in {', '.join(SUFFIXES)}"
        )
    if find_spec("matplotlib") is None:
        raise InvalidOptionError(f"--plot needs matplotlib; run: {install_command('matplotlib')}")


def new_figure(width: float, height: float) -> tuple[Any, Any]:
    """A figure of inches and its axes, drawn without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    return figure, axes


def run_title(model: str, tier: str, num_threads: int) -> str:
    """The title of a plot: what was run or predicted, and on what."""
    threads = "1 thread" if num_threads == 1 else f"{num_threads} threads"
    return f"{model}, {tier}, {threads}"


def plain_ticks(axis: Any) -> None:
    """Write the ticks of a logarithmic axis as the numbers that they stand for."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_minor_formatter(NullFormatter())


def save_figure(figure: Any, path: str) -> None:
    """Write the figure in the format of the file's ending, or leave the file as it was."""
    from edgellama.quant.replaced_file import replaced_file

    with replaced_file(Path(path)) as file:
        figure.savefig(file, format=Path(path).suffix[1:].lower(), dpi=150)
