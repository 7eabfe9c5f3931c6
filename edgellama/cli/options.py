"""Options that several commands share, and the arguments that they become.

An option that the user leaves out is not passed on: the Python API alone knows the defaults,
the help text repeats them and a test compares.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from edgellama.cli.byte_size import ByteSize
from edgellama.cli.completion import KV_TYPE, PATH, TYPE
from edgellama.sampling.options import CHAT_SAMPLING

Command = TypeVar("Command", bound=Callable[..., Any])

SAMPLING_OPTIONS = {
    "temperature": (float, "Randomness; 0 always takes the likeliest token.", "0.8"),
    "top_k": (int, "Choose among this many likeliest tokens; 0 for all.", "40"),
    "top_p": (float, "Choose among the likeliest tokens of this total probability.", "0.95"),
    "min_p": (float, "Drop tokens below this fraction of the likeliest one's.", "0.05"),
    "repeat_penalty": (float, "Weaken tokens that came lately; 1 for not at all.", "1.0"),
    "repeat_last_n": (int, "How many tokens are lately; -1 for all.", "64"),
    "dry_multiplier": (float, "Weaken what would repeat a sequence (DRY); 0 for not.", "0.0"),
    "dry_base": (float, "How fast that grows with the sequence's length.", "1.75"),
    "dry_allowed_length": (int, "Tokens that a sequence may repeat freely.", "2"),
    "dry_last_n": (int, "Look for sequences in so many last tokens; -1 for all.", "-1"),
    "seed": (int, "Same seed, same text; left out, every run differs.", None),
}
"""By the API's name: type, help, default as shown."""
SHORT_NAMES = {"temperature": ("--temp",)}
DEFAULT_MAX_TOKENS = 512


KV_TYPES_HELP = (
    "Numbers of the KV cache: f32, f16, bf16, q8_0 or q4_0; for keys and for values apart as "
    "q8_0/q4_0."
)


def sampling_options(*, chat: bool) -> Callable[[Command], Command]:
    """Adds the options of SAMPLING_OPTIONS, with the defaults of a chat or of plain text."""

    def add(command: Command) -> Command:
        command = click.option(
            "--dry-breaker",
            "dry_breakers",
            multiple=True,
            metavar="TEXT",
            callback=lambda context, option, texts: breaker_texts(texts) if texts else None,
            help='Sequences end here; repeatable, none for nowhere.  [default: \\n : " *]',
        )(command)
        for name, (kind, text, default) in reversed(SAMPLING_OPTIONS.items()):
            shown = _chat_default(name, default) if chat else _text_default(name, default)
            command = click.option(
                "--" + name.replace("_", "-"),
                *SHORT_NAMES.get(name, ()),
                name,
                type=kind,
                metavar="N",
                help=f"{text}  [default: {shown}]" if default else text,
            )(command)
        return command

    return add


def _chat_default(name: str, default: str | None) -> str:
    """What help says of a command that always chats."""
    own = "the model's own, else " if name in CHAT_SAMPLING or _is_recommended(name) else ""
    return f"{own}{CHAT_SAMPLING.get(name, default)}"


def _text_default(name: str, default: str | None) -> str:
    """What help says of a command that continues texts, and chats if it is asked to."""
    if name in CHAT_SAMPLING:
        return f"{default}; in chats the model's own, else {CHAT_SAMPLING.get(name)}"
    return f"{default}; in chats the model's own, if any" if _is_recommended(name) else f"{default}"


def _is_recommended(name: str) -> bool:
    """Whether a model's file may recommend the option."""
    return not name.startswith("dry")


def breaker_texts(texts: Sequence[str]) -> tuple[str, ...]:
    """DRY's breakers as a user writes them: \\n and \\t stand for themselves, none for no text."""
    if tuple(texts) == ("none",):
        return ()
    return tuple(text.replace("\\n", "\n").replace("\\t", "\t") for text in texts)


def count_option(
    *names: str, text: str, default: int | None = None
) -> Callable[[Command], Command]:
    """Adds an option that takes a whole number from 1 on."""
    return click.option(
        *names,
        type=click.IntRange(min=1),
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
    *("-n", "--max-tokens"), default=DEFAULT_MAX_TOKENS, text="Stop a text after this many tokens."
)
stop_option = click.option(
    "--stop", multiple=True, metavar="TEXT", help="Stop before this text; repeatable."
)
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
    """Adds the file that a text is read from."""
    return click.option(
        *("-f", "--file"),
        required=required,
        type=PATH,
        metavar=metavar,
        help=f"{text} (- is stdin).",
    )


def json_option(text: str = "Print one JSON object.") -> Callable[[Command], Command]:
    """Adds the switch from what people read to what programs do."""
    return click.option("--json", "as_json", is_flag=True, help=text)


def style_option(
    what: str = "figures", *, more: Sequence[str] = ()
) -> Callable[[Command], Command]:
    """Adds how a table is printed, ``more`` ways beside those of all tables."""
    return click.option(
        *("-o", "--output", "style"),
        type=click.Choice(["md", "csv", "json", *more]),
        default="md",
        show_default=True,
        help=f"How to print the {what}.",
    )


def overwrite_option(file: str) -> Callable[[Command], Command]:
    """Adds that a file may be replaced."""
    return click.option("--overwrite", is_flag=True, help=f"Replace {file} if it is there.")


PROMPT_CACHE_HELP = (
    "Memory for the beginnings of earlier texts, which are not computed again: 2GB, 500MB, 0."
)
EXACT_HELP = "The same text, bit for bit, alone, beside others and from a cache; a little slower."
ENGINE_ARGUMENTS = ("context_length", "num_threads", "kv_type", "cache_limit", "exact")


def engine_options(command: Command) -> Command:
    """Adds what decides how a model is loaded: ENGINE_ARGUMENTS, which ``Llama`` takes."""
    command = click.option("--exact", is_flag=True, default=None, help=EXACT_HELP)(command)
    command = click.option(
        "--prompt-cache",
        "cache_limit",
        type=ByteSize(),
        metavar="SIZE",
        help=f"{PROMPT_CACHE_HELP}  [default: a quarter of what is free]",
    )(command)
    command = threads_option(command)
    command = click.option(
        "--kv", "kv_type", type=KV_TYPE, metavar="TYPE", help=f"{KV_TYPES_HELP}  [default: f16]"
    )(command)
    return count_option(
        *("-c", "--context", "context_length"),
        text="Tokens of text the model can look back on.  [default: the model's own]",
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


def take_engine_arguments(options: dict[str, Any]) -> dict[str, Any]:
    """The engine options that the user has set, which then are no longer among ``options``."""
    return given({name: options.pop(name) for name in ENGINE_ARGUMENTS})


def given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that the user has set."""
    return {name: value for name, value in options.items() if value is not None}
