"""``--template NAME|FILE``: a chat format by its published name, or a Jinja file.

``text.named_templates`` knows the names. A file is run in a sandbox when a chat uses it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from edgellama.cli.options.completion import TEMPLATE

Command = TypeVar("Command", bound=Callable[..., Any])

LIST = "list"
MAX_FILE_BYTES = 1 << 20
HELP = (
    "Use another chat format than the file's: the name of a published one (list shows them), "
    "or a Jinja file."
)


def template_option(command: Command) -> Command:
    """Add ``--template``, whose value is a name or Jinja source."""
    return click.option(
        "--template", type=TEMPLATE, callback=_chosen, metavar="NAME|FILE", help=HELP
    )(command)


def _chosen(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """The name or the source in a file; ``list`` shows the names and ends the program."""
    if value is None:
        return None
    from edgellama.text.named_templates import find_template, unknown_template

    if value == LIST:
        for line in _lines():
            click.echo(line)
        ctx.exit()
    path = Path(os.path.expanduser(value))
    if path.is_file():
        return _read(path)
    name = find_template(value)
    if name is None:
        raise unknown_template(value)
    return name


def _lines() -> list[str]:
    from edgellama.text.named_templates import NAMED_TEMPLATES

    return [f"{name:<14}{entry.users}" for name, entry in NAMED_TEMPLATES.items()]


def _read(path: Path) -> str:
    from edgellama.quant.error_text import file_error

    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise file_error(path, f"is larger than {MAX_FILE_BYTES} bytes", "a Jinja template")
    try:
        source = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise file_error(path, f"is not UTF-8 at byte {error.start}", "a Jinja template") from None
    if "{" not in source:
        raise file_error(path, "writes nothing of a message", "a Jinja template")
    return source
