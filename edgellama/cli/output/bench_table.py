"""The table of ``edgellama bench``: its columns, and which of them are worth showing.

``measure.bench`` knows what the figures mean, ``tables`` how tables look.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click

from edgellama.cli.output import tables
from edgellama.cli.output.tables import Column, Row

COLUMNS = (
    Column("model", lambda path: Path(path).stem, is_number=False),
    Column("type", is_number=False),
    Column("size_bytes", tables.size),
    Column("parameters", lambda count: f"{count / 1e6:,.0f} M"),
    Column("tier", is_number=False),
    Column("num_threads"),
    Column("batch_tokens"),
    Column("key_type", is_number=False),
    Column("value_type", is_number=False),
    Column("attention", is_number=False),
    Column("adapters", is_number=False),
    Column("draft", lambda path: Path(path).stem, is_number=False),
    Column("test", is_number=False),
    Column("tokens_per_second"),
    Column("peak_memory_bytes", tables.size),
    Column("kv_bytes", tables.size),
    Column("card_bytes", tables.size),
    Column("start_seconds", "{:.2f} s".format),
    Column("decode_gb_per_second", "{:.1f}".format),
    Column("bandwidth_share", "{:.0%}".format),
    Column("prefill_gmac_per_second", "{:.0f}".format),
    Column("guesses", is_number=False),
)
USUAL: Mapping[str, Any] = MappingProxyType(
    {
        "batch_tokens": 512,
        "attention": "auto",
        "adapters": "",
        "draft": "",
        "card_bytes": 0,
        "guesses": None,
    }
)
"""What columns have where nobody has asked for anything else."""

_WRITERS: Mapping[str, Callable[[Sequence[Row]], str]] = MappingProxyType(
    {
        "csv": tables.comma_separated,
        "json": tables.json_array,
        "jsonl": tables.json_lines,
        "sql": lambda rows: tables.sql(rows, "bench"),
    }
)


def show(rows: Sequence[Row], style: str) -> None:
    """Print the rows, if any, in the style that the user chose."""
    if style in _WRITERS:
        if rows or style == "json":
            click.echo(_WRITERS[style](rows))
        return
    if rows:
        readable = [_readable(row) for row in rows]
        columns = [column for column in COLUMNS if _says(column, readable)]
        click.echo(tables.to_read(readable, columns))


def _says(column: Column, rows: Sequence[Row]) -> bool:
    """Columns of batches, adapters and drafts are only shown where they are unusual."""
    if column.key not in USUAL:
        return True
    return any(row[column.key] != USUAL[column.key] for row in rows)


def _readable(row: Row) -> dict[str, Any]:
    speed = f"{row['tokens_per_second']:.2f} ± {row['stddev']:.2f}"
    guesses = None
    if row["draft"] and row["num_generated"]:
        guesses = f"{row['accepted_tokens']} of {row['drafted_tokens']} right"
    return {**row, "tokens_per_second": speed, "guesses": guesses}
