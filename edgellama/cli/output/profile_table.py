"""The rows and columns of ``edgellama profile``.

``measure.op_profile`` knows what the figures mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import click

from edgellama.cli.output import tables
from edgellama.cli.output.tables import Column, Row
from edgellama.measure.op_profile import OpTime, by_kind, by_layer, total

FROM_CACHE = "from cache"
COLUMNS = (
    Column("op", is_number=False),
    Column("layer"),
    Column("count"),
    Column("time_seconds", lambda seconds: f"{seconds * 1e6:,.1f} us"),
    Column("share", "{:.1%}".format),
    Column("bytes", tables.size),
    Column("macs", lambda macs: f"{macs / 1e6:,.2f} M" if macs else "-"),
    Column("gb_per_second", lambda rate: rate if rate == FROM_CACHE else f"{rate:.1f}"),
    Column("gmac_per_second", lambda rate: f"{rate:.1f}" if rate else "-"),
)
WHOLE_STEP = "whole step"
_GROUPINGS: Mapping[str, Callable[[Sequence[OpTime]], Sequence[OpTime]]] = MappingProxyType(
    {"kind": by_kind, "layer": by_layer, "op": lambda times: times}
)


def rows_of(steps: Mapping[str, Sequence[OpTime]], group: str, bandwidth: float) -> list[Row]:
    """The rows of each step, grouped, each step's sum last.

    What moved more bytes than ``bandwidth``, the GB/s of a plain read, found some of them in a
    cache: such a rate says nothing of the memory and is left out.
    """
    rows: list[Row] = []
    for name, times in steps.items():
        whole = total(times, WHOLE_STEP)
        rows += [_row(name, time, whole, bandwidth) for time in (*_GROUPINGS[group](times), whole)]
    return rows


def print_steps(
    rows: Sequence[Row], sizes: Mapping[str, int], bandwidth: float, style: str
) -> None:
    """All rows for programs; for people a table of each step, with the bandwidth to compare."""
    if style == "json":
        click.echo(tables.json_array(rows))
    elif style == "csv":
        click.echo(tables.comma_separated(rows))
    else:
        for name, num_tokens in sizes.items():
            of_step = [row for row in rows if row["step"] == name]
            if of_step:
                tokens = "1 token" if num_tokens == 1 else f"{num_tokens} tokens"
                click.echo(f"{name}, {tokens}\n")
                rows_to_read = [readable(row) for row in of_step]
                click.echo(tables.to_read(rows_to_read, _columns_of(of_step)) + "\n")
        click.echo(f"a plain read of the weights reaches {bandwidth:.1f} GB/s")


def _columns_of(rows: Sequence[Row]) -> list[Column]:
    """Without the column of layers where ops of all layers are added up."""
    has_layers = any(row["layer"] is not None for row in rows)
    return [column for column in COLUMNS if column.key != "layer" or has_layers]


def readable(row: Row) -> Row:
    """A row as people read it."""
    return {**row, "gb_per_second": FROM_CACHE} if row["is_from_cache"] else row


def _row(step: str, time: OpTime, whole: OpTime, bandwidth: float) -> dict[str, Any]:
    is_from_cache = time.gb_per_second > bandwidth
    return {
        "step": step,
        "op": time.name or "layer",
        "layer": int(time.layer) if time.layer else None,
        "count": time.count,
        "time_seconds": time.seconds,
        "share": time.seconds / whole.seconds if whole.seconds else 0.0,
        "bytes": time.work.num_bytes,
        "macs": time.work.num_macs,
        "gb_per_second": None if is_from_cache else time.gb_per_second,
        "is_from_cache": is_from_cache,
        "gmac_per_second": time.gmac_per_second,
    }
