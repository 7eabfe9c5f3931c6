"""Options that several commands share, and the arguments that they become.

An option that the user leaves out is not passed on: the Python API alone knows the defaults,
the help text repeats them and a test compares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgellama.cli.byte_size import ByteSize
from edgellama.cli.completion import KV_TYPE, MODEL, PATH, TYPE
from edgellama.cli.sampling_values import READERS, breaker_texts, read_value
from edgellama.sampling.options import RULES
from edgellama.sampling.presets import CHAT_SAMPLING, PRESETS

if TYPE_CHECKING:
    from edgellama.engine.card.choice import AttentionChoice
    from edgellama.generation.speculation.speculation import SpeculationMode

Command = TypeVar("Command", bound=Callable[..., Any])

_CLICK_KINDS: Mapping[object, type] = {Real: float, Integral: int}
SAMPLING_OPTIONS = {
    name: (_CLICK_KINDS[rule.range.kind], rule.text, rule.default)
    for name, rule in RULES.items()
    if rule.is_common
}
"""By the API's name: type, help, default; the others are for --sampling."""
RARE = "rare_sampling"
"""The argument of a command that holds what --sampling has read."""
SHORT_NAMES = {"temperature": ("--temp",)}
DEFAULT_MAX_TOKENS = 512


SAMPLING_HELP = (
    "Any other way to choose tokens, such as xtc_probability=0.5; repeatable. docs/sampling.md "
    "has them all."
)
KV_TYPES_HELP = (
    "Numbers of the KV cache: f32, f16, bf16, q8_0 or q4_0; for keys and for values apart as "
    "q8_0/q4_0."
)


def sampling_options(*, chat: bool) -> Callable[[Command], Command]:
    """Adds the options of SAMPLING_OPTIONS, with the defaults of a chat or of plain text."""

    def add(command: Command) -> Command:
        command = click.option(
            "--sampling",
            RARE,
            multiple=True,
            metavar="NAME=VALUE",
            callback=_read_rare,
            help=SAMPLING_HELP,
        )(command)
        command = click.option(
            "--preset",
            type=click.Choice([*PRESETS]),
            metavar="NAME",
            help=f"Choose as other programs do: {', '.join(PRESETS)}.",
        )(command)
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
                help=text if default is None else f"{text}  [default: {shown}]",
            )(command)
        return command

    return add


def _chat_default(name: str, default: object) -> str:
    """What help says of a command that always chats."""
    own = "the model's own, else " if name in CHAT_SAMPLING or _is_recommended(name) else ""
    return f"{own}{CHAT_SAMPLING.get(name, default)}"


def _text_default(name: str, default: object) -> str:
    """What help says of a command that continues texts, and chats if it is asked to."""
    if name in CHAT_SAMPLING:
        return f"{default}; in chats the model's own, else {CHAT_SAMPLING.get(name)}"
    return f"{default}; in chats the model's own, if any" if _is_recommended(name) else f"{default}"


def _is_recommended(name: str) -> bool:
    """Whether a model's file may recommend the option."""
    return not name.startswith("dry")


def _read_rare(
    context: click.Context, option: click.Parameter, texts: Sequence[str]
) -> dict[str, Any]:
    """The options of NAME=VALUE, by name."""
    values = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or name not in READERS:
            close = get_close_matches(name, READERS, n=1)
            guess = f"; did you mean {close[0]}?" if close else f"; allowed: {', '.join(READERS)}"
            raise click.BadParameter(f"{text!r} is no NAME=VALUE of an option{guess}")
        values[name] = read_value(name, value)
    return values


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


def limit_options(command: Command) -> Command:
    """Adds what ends a text, and what it must not contain."""
    command = click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        help="End a text as it is after so many seconds.  [default: no limit]",
    )(command)
    command = click.option(
        *("--ban", "banned"),
        multiple=True,
        metavar="TEXT",
        callback=_none_if_empty,
        help="Never write this text, but go back and find other words; repeatable.",
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
LOW_PRIORITY_HELP = "Let other programs go first; slower while they compute."
EXACT_HELP = "The same text, bit for bit, alone, beside others and from a cache; a little slower."
ROPE_SCALING_HELP = "Read N times as far: yarn:N, dynamic:N or linear:N."
SPECULATION_HELP = (
    "Guess tokens ahead out of the text and check several in a step: auto, on or off."
)
DRAFT_HELP = "A smaller model of the same vocabulary that guesses tokens too."
ATTENTION_HELP = (
    "Attend on the CPU, on an NVIDIA card (cuda), or there where that is faster (auto)."
)
GPU_HELP = "Which card.  [default: the first that can be used]"
GPU_MEMORY_HELP = "Take no more of the card's memory, such as 2GB.  [default: what is free]"
ATTENTION_MODES = ("cpu", "cuda", "auto")
SPECULATION_MODES: dict[str, SpeculationMode] = {"auto": "auto", "on": True, "off": False}
ENGINE_ARGUMENTS = (
    *("context_length", "num_threads", "kv_type", "cache_limit", "exact", "speculation", "draft"),
    *("rope_scaling", "low_priority", "attention", "gpu", "gpu_memory"),
)
"""Of ``Llama``: what the options of ``engine_options`` are called there."""


def engine_options(command: Command) -> Command:
    """Adds what decides how a model is loaded that writes texts."""
    command = click.option("--draft", type=MODEL, metavar="MODEL", help=DRAFT_HELP)(command)
    command = click.option(
        "--speculation",
        type=click.Choice(list(SPECULATION_MODES)),
        callback=lambda context, option, name: SPECULATION_MODES.get(name),
        help=f"{SPECULATION_HELP}  [default: auto]",
    )(command)
    command = click.option(
        "--prompt-cache",
        "cache_limit",
        type=ByteSize(),
        metavar="SIZE",
        help=f"{PROMPT_CACHE_HELP}  [default: a quarter of what is free]",
    )(command)
    return reading_options(command)


def reading_options(command: Command) -> Command:
    """Adds what decides how a model is loaded that only reads texts."""
    command = attention_options(command)
    command = click.option(
        "--rope-scaling", metavar="TYPE:N", help=f"{ROPE_SCALING_HELP}  [default: the model's own]"
    )(command)
    command = click.option("--exact", is_flag=True, default=None, help=EXACT_HELP)(command)
    command = click.option("--low-priority", is_flag=True, default=None, help=LOW_PRIORITY_HELP)(
        command
    )
    command = threads_option(command)
    command = click.option(
        "--kv", "kv_type", type=KV_TYPE, metavar="TYPE", help=f"{KV_TYPES_HELP}  [default: f16]"
    )(command)
    return count_option(
        *("-c", "--context", "context_length"),
        text="Tokens of text the model can look back on.  [default: the model's own]",
    )(command)


def attention_options(command: Command) -> Command:
    """Adds where attention is computed."""
    return click.option(
        "--attention", type=click.Choice(ATTENTION_MODES), help=f"{ATTENTION_HELP}  [default: auto]"
    )(gpu_options(command))


def gpu_options(command: Command) -> Command:
    """Adds which card is used, and how much of it."""
    command = click.option("--gpu-memory", type=ByteSize(), metavar="SIZE", help=GPU_MEMORY_HELP)(
        command
    )
    return click.option("--gpu", type=click.IntRange(min=0), metavar="N", help=GPU_HELP)(command)


def take_attention(options: dict[str, Any]) -> AttentionChoice:
    """The choice of ``attention_options``, which then are no longer among ``options``."""
    from edgellama.engine.card.choice import AttentionChoice

    mode, *rest = (options.pop(name) for name in ("attention", "gpu", "gpu_memory"))
    return AttentionChoice(mode or "auto", *rest)


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
    return given({name: options.pop(name, None) for name in ENGINE_ARGUMENTS})


def given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that the user has set."""
    own = {name: value for name, value in options.items() if value is not None}
    rare: Mapping[str, Any] = own.pop(RARE, {})
    return {**own, **rare}
