"""The rows and columns of ``edgellama profile``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import click

from edgellama.cli import tables
from edgellama.cli.tables import Column, Row
from edgellama.measure.op_profile import OpTime, by_kind, by_layer, total

COLUMNS = (
    Column("op", "op", is_number=False),
    Column("layer", "layer"),
    Column("ops", "count"),
    Column("time", "seconds", lambda seconds: f"{seconds * 1e6:,.1f} us"),
    Column("share", "share", "{:.1%}".format),
    Column("bytes", "bytes", tables.size),
    Column("MACs", "macs", lambda macs: f"{macs / 1e6:,.2f} M" if macs else "-"),
    Column("GB/s", "gb_per_second", "{:.1f}".format),
    Column("GMAC/s", "gmac_per_second", lambda rate: f"{rate:.1f}" if rate else "-"),
)
WHOLE_STEP = "whole step"
_GROUPINGS: Mapping[str, Callable[[Sequence[OpTime]], Sequence[OpTime]]] = MappingProxyType(
    {"kind": by_kind, "layer": by_layer, "op": lambda times: times}
)


def rows_of(steps: Mapping[str, Sequence[OpTime]], group: str) -> list[Row]:
    """The rows of each step, grouped, each step's sum last."""
    rows: list[Row] = []
    for name, times in steps.items():
        whole = total(times, WHOLE_STEP)
        rows += [_row(name, time, whole) for time in (*_GROUPINGS[group](times), whole)]
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
                click.echo(tables.markdown(of_step, _shown(of_step)) + "\n")
        click.echo(f"a plain read of the weights reaches {bandwidth:.1f} GB/s")


def _shown(rows: Sequence[Row]) -> list[Column]:
    """Without the column of layers where ops of all layers are added up."""
    has_layers = any(row["layer"] is not None for row in rows)
    return [column for column in COLUMNS if column.key != "layer" or has_layers]


def _row(step: str, time: OpTime, whole: OpTime) -> dict[str, Any]:
    return {
        "step": step,
        "op": time.name or "layer",
        "layer": int(time.layer) if time.layer else None,
        "count": time.count,
        "seconds": time.seconds,
        "share": time.seconds / whole.seconds if whole.seconds else 0.0,
        "bytes": time.work.num_bytes,
        "macs": time.work.num_macs,
        "gb_per_second": time.gb_per_second,
        "gmac_per_second": time.gmac_per_second,
    }
