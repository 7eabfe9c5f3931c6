"""Options for the form of a text, and the arguments that they become.

``constraints`` knows what the forms mean, and whether they can be kept to.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from edgellama.quant.error_text import shown, system_error_text

Command = TypeVar("Command", bound=Callable[..., Any])

SCHEMA_HELP = "Write JSON that follows this JSON Schema: a file, or the schema itself."
OPTIONS = (
    click.option("--schema", metavar="FILE|JSON", help=SCHEMA_HELP),
    click.option("--json-object", "json", is_flag=True, default=None, help="Write a JSON object."),
    click.option(
        "--regex",
        metavar="REGEX",
        help="Write a text that matches this regular expression as a whole.",
    ),
    click.option(
        "--grammar",
        metavar="FILE",
        help="Write a text that follows this grammar, in Lark's syntax or GBNF.",
    ),
    click.option(
        "--choice",
        "choices",
        multiple=True,
        metavar="TEXT",
        help="Write one of these texts; repeatable.",
    ),
    click.option(
        "--show-schema/--hide-schema",
        "show_schema",
        default=None,
        help="In chats, tell the model the schema or choices, or not.  [default: tell]",
    ),
)


def answer_options(command: Command) -> Command:
    """Add options for the form of a text; ``answer_arguments`` makes arguments of them."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def answer_arguments(options: dict[str, Any]) -> dict[str, Any]:
    """The options, with files read and what was left out taken out."""
    changed = dict(options)
    changed["choices"] = list(changed.get("choices") or ()) or None
    for name in ("schema", "grammar"):
        if changed.get(name) is not None:
            changed[name] = _text_of(name, changed[name])
    return {name: value for name, value in changed.items() if value is not None}


def _text_of(name: str, given: str) -> str:
    """What a file says, or the text itself where it can be no path."""
    if given.lstrip().startswith(("{", "true")) or "::=" in given or "\n" in given:
        return given
    try:
        return Path(given).read_text("utf-8")
    except UnicodeDecodeError:
        raise click.ClickException(f"--{name}: {given} is no text in UTF-8") from None
    except (OSError, ValueError) as error:
        reason = system_error_text(error) if isinstance(error, OSError) else str(error)
        raise click.ClickException(f"--{name} {shown(given)}: {reason}") from None
