"""``edgellama show``: a model in brief, and where it came from.

``models.facts`` reads the file.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from edgellama.cli.options.completion import MODEL
from edgellama.cli.options.options import json_option

if TYPE_CHECKING:
    from pathlib import Path

    from edgellama.models.library import StoredModel


@click.command("show", short_help="Show a model in brief: path, origin, type, license.")
@click.argument("model", required=False, type=MODEL)
@json_option()
def command(model: str | None, as_json: bool) -> None:
    """Show MODEL in brief: path, origin, type, license, size.

    MODEL is a name from "edgellama list" or the path of a GGUF file; the default is the
    starter model. To see everything in the file, use "edgellama inspect".

    \b
    Examples:
      edgellama show smollm2
      edgellama show llama3.2:1b --json
    """
    from edgellama.cli.commands.list_models import ago
    from edgellama.cli.output.terminal import printable

    facts = _facts(model)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    writers = _WRITERS | {"last_use": ago}
    for name, value in facts.items():
        if value is not None:
            click.echo(printable(f"{_TITLES.get(name, name):<12}{writers.get(name, str)(value)}"))


_TITLES = {
    "size_bytes": "size",
    "context_tokens": "context",
    "last_use": "last use",
}
_WRITERS: dict[str, Any] = {
    "size_bytes": "{:,} bytes".format,
    "parameters": "{:,}".format,
    "context_tokens": "{:,} tokens".format,
    "parts": "{} files".format,
}


def _facts(name: str | None) -> dict[str, Any]:
    from edgellama.cli.commands.list_models import moment
    from edgellama.models.facts import read_facts
    from edgellama.models.model_files import split_parts

    stored, path = _find(name)
    facts = read_facts(path)
    files = [part for part in split_parts(path) if part.is_file()]
    return {
        "name": stored.name if stored else None,
        "title": facts.title,
        "path": str(path),
        "parts": len(files) if len(files) > 1 else None,
        "origin": stored.origin if stored else "a file outside of the cache",
        "size_bytes": sum(file.stat().st_size for file in files),
        "type": facts.type,
        "parameters": facts.num_parameters,
        "context_tokens": facts.context_length,
        "license": facts.license or "not said in the file",
        "last_use": moment(stored.last_use) if stored else None,
    }


def _find(name: str | None) -> tuple[StoredModel | None, Path]:
    """The model of the cache, or a file elsewhere; nothing is downloaded."""
    from edgellama.models.library import find_stored
    from edgellama.models.names import resolve
    from edgellama.models.well_known import STARTER_MODEL
    from edgellama.quant.errors import ModelNotFoundError

    wanted = name or STARTER_MODEL
    try:
        stored = find_stored(wanted)
    except ModelNotFoundError:
        return None, resolve(wanted)
    return stored, stored.path
