"""Footprints as stacked bars: a bar for each prediction, a colour for each part of the memory.

``measure.footprint`` makes the predictions.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgellama.cli.output.figures import COLOURS, new_figure, save_figure
from edgellama.measure.footprint import Footprint

TITLES = {
    "weights": "weights",
    "kv": "KV",
    "activations": "activations",
    "vocabulary": "vocabulary",
    "code": "code",
    "prompt_cache": "prompt cache",
    "draft": "draft model",
    "adapter": "adapters",
}


def draw(title: str, predictions: Sequence[Footprint], memory_bytes: int | None, path: str) -> None:
    """A bar for every prediction, with a line at the memory to fit, if one was asked for."""
    figure, axes = new_figure(7.5, 1.6 + 0.32 * len(predictions))
    labels = [_label(prediction) for prediction in predictions]
    starts = [0.0] * len(predictions)
    for (part, part_title), colour in zip(TITLES.items(), COLOURS, strict=False):
        widths = [prediction.parts[part] / 1e9 for prediction in predictions]
        if not any(widths):
            continue
        axes.barh(range(len(labels)), widths, 0.7, starts, color=colour, label=part_title)
        starts = [start + width for start, width in zip(starts, widths, strict=True)]
    largest = max([*starts, (memory_bytes or 0) / 1e9])
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
    for row, end in enumerate(starts):
        text = f"{end:.2f}"
        axes.text(end + 0.01 * largest, row, text, va="center", fontsize=8, bbox=box, zorder=3)
    if memory_bytes is not None:
        line = {"color": "black", "linewidth": 1, "linestyle": "--"}
        axes.axvline(memory_bytes / 1e9, **line, label=f"{memory_bytes / 1e9:,g} GB to fit")
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.1 * largest)
    axes.set_xlabel("predicted peak memory, GB")
    axes.margins(y=0.4 / len(labels))
    figure.suptitle(title, fontsize=10)
    axes.grid(axis="x", linewidth=0.4)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    save_figure(figure, path)


def _label(prediction: Footprint) -> str:
    return f"{prediction.type}, KV {prediction.kv_types}, {prediction.context_length:,} tokens"
