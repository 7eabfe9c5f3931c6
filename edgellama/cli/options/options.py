"""General options that several commands share, and the arguments that they become.

An option that the user leaves out is not passed on: the Python API alone knows the defaults. Help
texts repeat them, and a test compares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, TypeVar, cast

import click

from edgellama.cli.options.completion import KV_TYPE, PATH
from edgellama.cli.options.token_count import TokenCount

Command = TypeVar("Command", bound=Callable[..., Any])

RARE = "rare_sampling"
"""The argument of a command that holds what --sampling has read."""
DEFAULT_MAX_TOKENS = 512
KV_TYPES_HELP = (
    "Type of the KV cache: f32, f16, bf16, q8_0 or q4_0; q8_0/q4_0 gives keys and values "
    "different ones."
)


def count_option(
    *names: str, text: str, default: int | None = None, kind: type[click.IntRange] = click.IntRange
) -> Callable[[Command], Command]:
    """Add an option that takes a whole number from 1 on."""
    return click.option(
        *names,
        type=kind(min=1),
        metavar="N",
        default=default,
        show_default=default is not None,
        help=text,
    )


threads_option = count_option(
    *("-t", "--threads", "num_threads"),
    text="Threads to compute with.  [default: physical cores]",
)
chunks_option = count_option(
    *("--chunks", "max_chunks"), text="Read this many chunks of the text at most.  [default: all]"
)
max_tokens_option = count_option(
    *("-n", "--max-tokens"),
    default=DEFAULT_MAX_TOKENS,
    text="Stop a text after this many tokens.",
    kind=TokenCount,
)


def limit_options(command: Command) -> Command:
    """Add options for what ends a text, and what it must not contain."""
    command = click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        help="End a text after this many seconds, finished or not.  [default: no limit]",
    )(command)
    command = click.option(
        *("--ban", "banned"),
        multiple=True,
        metavar="TEXT",
        callback=_none_if_empty,
        help="Never write this text: go back and find other words; repeatable.",
    )(command)
    return click.option(
        "--stop",
        multiple=True,
        metavar="TEXT",
        callback=_none_if_empty,
        help="Stop before this text; repeatable.",
    )(command)


def _none_if_empty(
    context: click.Context, option: click.Parameter, texts: tuple[str, ...]
) -> tuple[str, ...] | None:
    return texts or None


def shown_thinking_options(command: Command) -> Command:
    """Add options for thinking before an answer, and for showing it."""
    hide = click.option("--hide-thinking", is_flag=True, help="Do not show the thinking.")
    return thinking_options(hide(command))


def thinking_options(command: Command) -> Command:
    """Add options for thinking before an answer, and for its limit."""
    command = click.option(
        *("--max-thinking", "max_reasoning_tokens"),
        type=TokenCount(min=0),
        metavar="N",
        help="End the thinking after this many tokens.  [default: no limit]",
    )(command)
    return click.option(
        *("--think/--no-think", "reasoning"),
        default=None,
        help="Let a model that can think do so before it answers, or not.  "
        "[default: the model decides]",
    )(command)


kv_type_option = click.option(
    *("--kv", "kv_type"),
    type=KV_TYPE,
    metavar="TYPE",
    default="f16",
    show_default=True,
    help=KV_TYPES_HELP,
)


def text_file_option(
    text: str, *, required: bool = False, metavar: str = "FILE"
) -> Callable[[Command], Command]:
    """Add the option for the file that a text is read from."""
    return click.option(
        *("-f", "--file"),
        required=required,
        type=PATH,
        metavar=metavar,
        help=f"{text} (- is stdin).",
    )


def json_option(text: str = "Print one JSON object.") -> Callable[[Command], Command]:
    """Add the switch from output for people to JSON."""
    return click.option("--json", "as_json", is_flag=True, help=text)


def style_option(
    what: str = "figures", *, more: Sequence[str] = ()
) -> Callable[[Command], Command]:
    """Add the option for a table's style; ``more``: styles beside those of all tables."""
    output = click.option(
        *("-o", "--output", "style"),
        type=click.Choice(["md", "csv", "json", *more]),
        default="md",
        show_default=True,
        help=f"How to print the {what}.",
    )
    json = json_option("The same as -o json.")

    def add(command: Command) -> Command:
        @wraps(command)
        def run(*args: Any, as_json: bool, style: str, **options: Any) -> Any:
            return command(*args, style="json" if as_json else style, **options)

        return cast("Command", output(json(run)))

    return add


def overwrite_option(file: str) -> Callable[[Command], Command]:
    """Add the option that lets a file be replaced."""
    return click.option("--overwrite", is_flag=True, help=f"Replace {file} if it is there.")


def given_options(options: dict[str, Any]) -> dict[str, Any]:
    """The options that the user has set."""
    own = {name: value for name, value in options.items() if value is not None}
    rare: Mapping[str, Any] = own.pop(RARE, {})
    return {**own, **rare}
