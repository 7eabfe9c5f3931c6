"""``edgellama list``: the models in the cache.

``models.library`` finds them, and ``models.facts`` describes a file.
"""

from __future__ import annotations

import time
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgellama.cli.options.options import style_option
from edgellama.cli.output import tables
from edgellama.cli.output.tables import Column, Row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgellama.models.library import StoredModel

COLUMNS = (
    Column("name", is_number=False),
    Column("size_bytes", tables.size),
    Column("type", is_number=False),
    Column("context_tokens", "{:,}".format),
    Column("last_use", lambda moment: ago(moment), is_number=False),
)
_AGES = ((86400.0, "day"), (3600.0, "hour"), (60.0, "minute"))


CHAT_COLUMNS = (
    Column("name", is_number=False),
    Column("num_messages"),
    Column("size_bytes", tables.size),
    Column("last_use", lambda moment: ago(moment), is_number=False),
    Column("model", is_number=False),
)


NAMES = ("name", "size_bytes", "type", "context_tokens", "last_use", "path", "origin")
CHAT_NAMES = ("name", "num_messages", "size_bytes", "last_use", "model", "path")
"""What programs read, in this order."""


@click.command("list", short_help="List the models in the cache.")
@click.option("--chats", is_flag=True, help="List conversations of chat --resume instead.")
@style_option("list")
def command(style: str, chats: bool) -> None:
    """List the models in the cache: pulled ones, then converted ones.

    Other commands take these names for MODEL. Converted models are made again when they are
    needed, from the checkpoint that "edgellama show NAME" names.

    \b
    Examples:
      edgellama list
      edgellama list -o json
      edgellama list --chats
    """
    from edgellama.models.library import stored_models

    rows = chat_rows() if chats else [row_of(model) for model in stored_models()]
    if style == "json":
        click.echo(tables.json_array(rows))
    elif style == "csv":
        click.echo(tables.comma_separated(rows, CHAT_NAMES if chats else NAMES))
    elif rows:
        _show(rows, CHAT_COLUMNS if chats else COLUMNS)
    elif chats:
        click.echo("no conversations yet; to keep one: edgellama chat --resume NAME", err=True)
    else:
        click.echo("no models yet; to get a small one: edgellama pull smollm2", err=True)


def row_of(model: StoredModel) -> dict[str, object]:
    """One model under the names that programs read; what is damaged has a type that says so."""
    from edgellama.models.facts import read_facts
    from edgellama.quant.errors import EdgellamaError

    try:
        facts = read_facts(model.path)
    except EdgellamaError:
        facts = None
    return {
        "name": model.name,
        "size_bytes": model.num_bytes,
        "type": facts.type if facts else "damaged",
        "context_tokens": facts.context_length if facts else None,
        "last_use": moment(model.last_use),
        "path": str(model.path),
        "origin": model.origin,
    }


def chat_rows() -> list[Row]:
    """The conversations that are kept, under the names that programs read."""
    from edgellama.cli.inputs.kept import KeptConversation, kept_names
    from edgellama.quant.errors import EdgellamaError

    rows: list[Row] = []
    for name in kept_names():
        kept = KeptConversation(name)
        try:
            saved = kept.read()
        except (EdgellamaError, OSError):
            saved = None
        model = saved.model if saved else None
        rows.append(
            {
                "name": name,
                "num_messages": len(saved.messages) if saved else None,
                "size_bytes": kept.num_bytes,
                "last_use": moment(kept.last_use),
                "model": Path(model).stem if model else None,
                "path": str(kept.messages_path),
            }
        )
    return rows


def moment(seconds: float | None) -> str | None:
    """A time in ISO 8601, UTC."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")


def ago(text: str) -> str:
    """How long ago a time in ISO 8601 was, for people."""
    seconds = time.time() - datetime.fromisoformat(text).timestamp()
    for unit_seconds, name in _AGES:
        if seconds >= unit_seconds:
            count = int(seconds / unit_seconds)
            return f"{count} {name}{'s' if count > 1 else ''} ago"
    return "just now"


def _show(rows: Sequence[Row], columns: Sequence[Column]) -> None:
    total = sum(int(row["size_bytes"]) for row in rows)
    click.echo(tables.to_read(rows, columns))
    click.echo(f"\n{tables.size(total)} in all")
