"""Rows of figures as text: Markdown for people, CSV, JSON, JSON lines and SQL for programs.

Programs get every value of a row under its own name. People get the columns that a command chose,
under the same names in words.
"""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgellama.cli.output.terminal import printable
from edgellama.quant.records import dataclass

Row = Mapping[str, Any]


_UNITS = re.compile(r"_(bytes|tokens|seconds|length)$")
_WRITTEN = {"kv": "KV", "macs": "MACs", "gb": "GB", "gmac": "GMAC"}


@dataclass(frozen=True)
class Column:
    """A column for people: the value's key in a row, and how it is written."""

    key: str
    write: Callable[[Any], str] = str
    is_number: bool = True

    @property
    def title(self) -> str:
        """The name that programs read, in words: without its unit, which the values show."""
        name = self.key.removeprefix("predicted_").removeprefix("num_")
        words = _UNITS.sub("", name).removesuffix("_per_second").split("_")
        title = " ".join(_WRITTEN.get(word, word) for word in words)
        return f"{title}/s" if name.endswith("_per_second") else title


def markdown(rows: Sequence[Row], columns: Sequence[Column], width: int | None = None) -> str:
    """A table with aligned columns; a value of None is a dash.

    Where it would be wider than ``width`` characters, rows stand beside each other, as many as
    fit, each value behind its title.
    """
    cells = [[column.title for column in columns]] + [
        ["-" if row.get(c.key) is None else c.write(row[c.key]).replace("|", "/") for c in columns]
        for row in rows
    ]
    table = _aligned(cells, [column.is_number for column in columns])
    if width is None or table.index("\n") <= width:
        return table
    titles, *rest = cells
    beside: list[list[list[str]]] = [[]]
    reached = first = max(map(len, titles)) + 4
    for row in rest:
        row_width = max(map(len, row)) + 3
        reached += row_width
        if beside[-1] and reached > width:
            beside.append([])
            reached = first + row_width
        beside[-1].append(row)
    return "\n\n".join(
        _aligned([*zip(titles, *group, strict=True)], [False] + [True] * len(group))
        for group in beside
    )


def to_read(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """``markdown`` for standard output, as wide as its terminal, if it is one."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    return printable(markdown(rows, columns, width))


def _aligned(cells: Sequence[Sequence[str]], are_numbers: Sequence[bool]) -> str:
    """A table of lines of cells, the first of them the head; numbers are on the right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rule = [
        "-" * (width + 1) + (":" if is_number else "-")
        for width, is_number in zip(widths, are_numbers, strict=True)
    ]
    head, *body = (
        "| "
        + " | ".join(
            text.rjust(width) if is_number else text.ljust(width)
            for text, width, is_number in zip(line, widths, are_numbers, strict=True)
        )
        + " |"
        for line in cells
    )
    return "\n".join([head, "|" + "|".join(rule) + "|", *body])


def comma_separated(rows: Sequence[Row], names: Sequence[str] = ()) -> str:
    """CSV with a line of names: those of the first row, or ``names`` where there is none."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0] if rows else names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().rstrip("\n")


def json_array(rows: Sequence[Row]) -> str:
    """One array of objects."""
    return json.dumps([dict(row) for row in rows], indent=2)


def json_lines(rows: Sequence[Row]) -> str:
    """One object a line."""
    return "\n".join(json.dumps(dict(row)) for row in rows)


def sql(rows: Sequence[Row], table: str) -> str:
    """Statements that make a table and fill it."""
    if not rows:
        return ""
    kinds = {str: "TEXT", list: "TEXT", bool: "INTEGER", int: "INTEGER"}
    names = ",\n  ".join(f"{name} {kinds.get(type(v), 'REAL')}" for name, v in rows[0].items())
    start = f"INSERT INTO {table} ({', '.join(rows[0])}) VALUES"
    inserts = [f"{start} ({', '.join(map(_sql_value, row.values()))});" for row in rows]
    return "\n".join([f"CREATE TABLE IF NOT EXISTS {table} (\n  {names}\n);", *inserts])


def size(num_bytes: float) -> str:
    """Bytes as people read them: in GB, MB or kB, which are powers of ten."""
    for unit, name, digits in ((1e9, "GB", 2), (1e6, "MB", 1)):
        if num_bytes >= unit:
            return f"{num_bytes / unit:,.{digits}f} {name}"
    return f"{num_bytes / 1e3:.1f} kB"


def _sql_value(value: object) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, (bool, int, float)):
        return str(int(value)) if isinstance(value, bool) else repr(value)
    return "'" + str(value).replace("'", "''") + "'"
