"""Speeds as bars: a row of axes for each model, prefill beside decode, a group for each depth.

Which values there are is known to ``results``, their names and units to ``figures``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from comparison.figures import Quantity, Ratio, number
from comparison.results import Comparison, EngineResults, ModelResults
from edgellama.cli.output.figures import COLOURS, save_figure

WIDTH_INCHES = 8.0
BAR_INCHES = 0.19
ROW_MARGIN_INCHES = 0.4
GROUP_SHARE = 0.84
"""Of the space of a depth that its bars take."""
AXIS_INCHES = 3.3
CHARACTER_INCHES = 0.067
"""Of the labels beside the bars, about."""


def draw(comparison: Comparison, path: Path) -> None:
    """Write the plot in the format of the file's ending."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    heights = [_row_inches(model, comparison) for model in comparison.models]
    size = (WIDTH_INCHES, sum(heights) + 0.75)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subplots(len(heights), 2, squeeze=False, height_ratios=heights)
    colours = _colours(comparison)
    columns = {
        "prefill": f"prefill of {comparison.settings.prompt_tokens:,} tokens, tokens/s",
        "decode": "decode, tokens/s",
    }
    for row, model in zip(rows, comparison.models, strict=True):
        row[0].set_title(model.title, fontsize=9, fontweight="bold", loc="left")
        for axes, name in zip(row, columns, strict=True):
            _draw_speeds(axes, model, name, comparison.settings.depths, colours)
    for axes, text in zip(rows[0], columns.values(), strict=True):
        # The empty line lifts it above the title of the model.
        axes.set_title(f"{text}\n", fontsize=8)
    figure.suptitle(_title(comparison), fontsize=9)
    handles, labels = _legend(rows)
    figure.legend(
        handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=8
    )
    save_figure(figure, str(path))


def _title(comparison: Comparison) -> str:
    """What all models ran on: the threads, and what ours says of itself, its tier among it."""
    num_threads = comparison.settings.num_threads
    ours = [model.engines[0] for model in comparison.models]
    said = dict.fromkeys(f"{engine.name} {text}" for engine in ours for text in engine.descriptions)
    return "; ".join([*said, "1 thread" if num_threads == 1 else f"{num_threads} threads"])


def _row_inches(model: ModelResults, comparison: Comparison) -> float:
    engines = sum(_has_speed(engine) for engine in model.engines)
    return ROW_MARGIN_INCHES + BAR_INCHES * engines * len(comparison.settings.depths)


def _has_speed(engine: EngineResults) -> bool:
    return any(quantity.figure in ("prefill", "decode") for quantity in engine.values)


def _colours(comparison: Comparison) -> dict[str, str]:
    names = dict.fromkeys(
        engine.name for model in comparison.models for engine in model.engines if _has_speed(engine)
    )
    return {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(names)}


def _draw_speeds(
    axes: Any,
    model: ModelResults,
    figure_name: str,
    depths: Sequence[int],
    colours: Mapping[str, str],
) -> None:
    engines = [engine for engine in model.engines if _has_speed(engine)]
    height = GROUP_SHARE / len(engines)
    right = 0.0
    for index, engine in enumerate(engines):
        places, speeds, labels = [], [], []
        for place, depth in enumerate(depths):
            quantity = Quantity(figure_name, depth)
            if quantity in engine.values:
                places.append(place + (index - (len(engines) - 1) / 2) * height)
                speeds.append(median(engine.values[quantity]))
                labels.append(_label(model, engine, quantity))
        bars = axes.barh(
            places, speeds, height * 0.92, color=colours[engine.name], label=engine.name
        )
        weight = "bold" if engine is model.engines[0] else "normal"
        axes.bar_label(bars, labels, padding=3, fontsize=7.5, fontweight=weight)
        right = max([right, *map(_right_end, speeds, labels)])
    names = [f"depth {depth:,}" if figure_name == "prefill" else "" for depth in depths]
    axes.set_yticks(range(len(depths)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, right)
    axes.set_xticks([])
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "bottom"]].set_visible(False)


def _right_end(speed: float, label: str) -> float:
    """Where an axis must end so that a bar and its label fit on it."""
    return speed * AXIS_INCHES / (AXIS_INCHES - CHARACTER_INCHES * len(label))


def _label(model: ModelResults, engine: EngineResults, quantity: Quantity) -> str:
    """The speed; on ours also how often it is each peer's, in their order."""
    text = number(median(engine.values[quantity]))
    ours, *peers = model.engines
    if engine is not ours:
        return text
    ratios = ", ".join(_ratios(quantity, ours, peers))
    return f"{text}  ({ratios})" if ratios else text


def _ratios(
    quantity: Quantity, ours: EngineResults, peers: Sequence[EngineResults]
) -> Iterator[str]:
    for peer in peers:
        if quantity in peer.values:
            ratio = Ratio.of(ours.values[quantity], peer.values[quantity])
            yield f"{ratio.median:.3g}x"


def _legend(rows: Any) -> tuple[list[Any], list[str]]:
    found: dict[str, Any] = {}
    for axes in rows.flat:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return list(found.values()), list(found)
