"""The rows and columns of ``edgellama footprint``: predictions, and a measurement beside one.

``measure`` computes the numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import click

from edgellama.cli.output import tables
from edgellama.cli.output.tables import Column, Row
from edgellama.cli.output.terminal import printable
from edgellama.measure.footprint import Footprint
from edgellama.measure.footprint_fit import divergence
from edgellama.measure.footprint_measurement import Measurement
from edgellama.measure.model_outline import ModelOutline
from edgellama.quant.free_memory import available_memory_bytes

PARTS = (
    *("weights", "kv", "activations", "vocabulary", "code", "prompt_cache", "draft"),
    *("adapter", "total", "card"),
)
COLUMNS = (
    Column("type", is_number=False),
    Column("as_it_is", lambda is_so: "yes" if is_so else "-", is_number=False),
    Column("bits_per_weight", "{:.2f}".format),
    Column("kv_type", is_number=False),
    Column("context_length", "{:,}".format),
    Column("num_texts"),
    *(Column(f"predicted_{part}_bytes", tables.size) for part in PARTS),
)
USUAL_VALUES = {"num_texts": 1}
"""What need not be shown where it is so in the first row; of other columns that is 0."""
LOSS_COLUMN = Column("expected_divergence", "{:.3f} nats".format)
MEASURED_PARTS = ("weights", "kv", "card", "rss", "pss")


def prediction_row(outline: ModelOutline, prediction: Footprint) -> dict[str, object]:
    """One prediction under the names that programs read."""
    return {
        "model": outline.name,
        "parameters": outline.num_parameters,
        "type": prediction.type,
        "as_it_is": prediction.is_as_it_is,
        "bits_per_weight": round(prediction.bits_per_weight, 4),
        "kv_type": str(prediction.kv_types),
        "context_length": prediction.context_length,
        "num_texts": prediction.num_texts,
        **{f"predicted_{part}_bytes": size for part, size in prediction.parts.items()},
        "predicted_total_bytes": prediction.total_bytes,
        "predicted_card_bytes": prediction.card_bytes,
    }


def fit_row(outline: ModelOutline, prediction: Footprint) -> dict[str, object]:
    """The same, with what quantization is expected to cost."""
    loss = round(divergence(prediction), 4)
    return prediction_row(outline, prediction) | {"expected_divergence": loss}


def measured_row(
    outline: ModelOutline, prediction: Footprint, found: Measurement
) -> dict[str, object]:
    """A prediction with the measurement; of a process alone, PSS is what RSS is."""
    total = prediction.total_bytes
    return prediction_row(outline, prediction) | {
        "predicted_rss_bytes": total,
        "predicted_pss_bytes": total,
        "measured_rss_bytes": found.peak_bytes,
        "measured_pss_bytes": found.pss_bytes,
        "measured_weights_bytes": found.weights_bytes,
        "measured_kv_bytes": found.kv_bytes,
        "measured_card_bytes": found.card_bytes,
        "measured_libraries_bytes": found.libraries_bytes,
        "measured_tokens": found.num_tokens,
    }


def print_rows(outline: ModelOutline, rows: Sequence[Row], style: str) -> None:
    """The rows in the style that the user chose; a heading only for people."""
    if style == "json":
        click.echo(tables.json_array(rows))
    elif style == "csv":
        click.echo(tables.comma_separated(rows))
    else:
        click.echo(printable(f"{outline.name}: {outline.num_parameters:,} parameters{_free()}\n"))
        losses = (LOSS_COLUMN,) if "expected_divergence" in rows[0] else ()
        columns = [column for column in COLUMNS if _says(column, rows)]
        click.echo(tables.to_read(rows, (*columns, *losses)))
        if "measured_rss_bytes" in rows[0]:
            click.echo("\n" + tables.to_read(_comparison(rows[0]), COMPARISON_COLUMNS))


def _free() -> str:
    """What this machine has for them."""
    free = available_memory_bytes()
    return "" if free is None else f"; {tables.size(free)} of memory are free here"


def _says(column: Column, rows: Sequence[Row]) -> bool:
    """Whether a column tells something; which rows are the file itself, only if some are not."""
    values = {row.get(column.key) for row in rows}
    if column.key == "as_it_is":
        return len(values) > 1
    return rows[0].get(column.key) != USUAL_VALUES.get(column.key, 0)


COMPARISON_COLUMNS = (
    Column("part", is_number=False),
    Column("predicted", tables.size),
    Column("measured", tables.size),
    Column("difference", "{:+.1%}".format),
)
_TITLES = {
    "weights": "weights",
    "kv": "KV",
    "card": "on the card",
    "rss": "peak (RSS)",
    "pss": "at the end (PSS)",
}


def _comparison(row: Row) -> list[Row]:
    lines: list[Row] = []
    for part in MEASURED_PARTS:
        predicted, measured = row[f"predicted_{part}_bytes"], row[f"measured_{part}_bytes"]
        if not predicted:
            continue
        if part == "pss":
            predicted = None  # Other processes decide how much of it is shared.
        is_compared = None not in (predicted, measured)
        difference = measured / predicted - 1 if is_compared else None
        lines.append(
            {
                "part": _TITLES[part],
                "predicted": predicted,
                "measured": measured,
                "difference": difference,
            }
        )
    return lines
