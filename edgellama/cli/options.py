"""Options that several commands share, and the arguments that they become.

An option that the user leaves out is not passed on: the Python API alone knows the defaults,
the help text repeats them and a test compares.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from edgellama.cli.completion import KV_TYPE, TYPE

Command = TypeVar("Command", bound=Callable[..., Any])

SAMPLING_OPTIONS = {
    "temperature": (float, "Randomness; 0 always takes the likeliest token.", "0.8"),
    "top_k": (int, "Choose among this many likeliest tokens; 0 for all.", "40"),
    "top_p": (float, "Choose among the likeliest tokens of this total probability.", "0.95"),
    "min_p": (float, "Drop tokens below this fraction of the likeliest one's.", "0.05"),
    "repeat_penalty": (float, "Weaken tokens that came lately; 1 for not at all.", "1.0"),
    "seed": (int, "Same seed, same text; left out, every run differs.", None),
}
"""By the API's name: type, help, default as shown."""


KV_TYPES_HELP = (
    "Numbers of the KV cache: f32, f16, bf16, q8_0 or q4_0; for keys and for values apart as "
    "q8_0/q4_0."
)


def sampling_options(command: Command) -> Command:
    """Adds the options of SAMPLING_OPTIONS."""
    for name, (kind, text, default) in reversed(SAMPLING_OPTIONS.items()):
        shown = f"{text}  [default: {default}]" if default else text
        command = click.option(
            "--" + name.replace("_", "-"), name, type=kind, metavar="N", help=shown
        )(command)
    return command


def engine_options(command: Command) -> Command:
    """Adds the context's length, the cache's number type and the number of threads."""
    command = click.option(
        "-t",
        "--threads",
        "num_threads",
        type=click.IntRange(min=1),
        metavar="N",
        help="Threads to compute with.  [default: physical cores]",
    )(command)
    command = click.option(
        "--kv", "kv_type", type=KV_TYPE, metavar="TYPE", help=f"{KV_TYPES_HELP}  [default: f16]"
    )(command)
    return click.option(
        "-c",
        "--context",
        "context_length",
        type=click.IntRange(min=1),
        metavar="N",
        help="Tokens of text the model can look back on.  [default: the model's own]",
    )(command)


def type_option(command: Command) -> Command:
    """Adds the type that the model is converted to before it runs."""
    return click.option(
        "--type",
        "type_name",
        type=TYPE,
        metavar="TYPE",
        help="Convert MODEL to TYPE first, such as q4_0, and keep that for the next time.  "
        "[default: as it is; a checkpoint becomes q4_k_m]",
    )(command)


def given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that the user has set."""
    return {name: value for name, value in options.items() if value is not None}
