"""Options for loading a model, and the arguments of ``Llama`` that they become.

``sampling_options`` and ``answer_options`` have the options of texts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from edgellama.cli.options.byte_size import ByteSize
from edgellama.cli.options.completion import KV_TYPE, MODEL, TYPE
from edgellama.cli.options.options import (
    KV_TYPES_HELP,
    Command,
    count_option,
    given_options,
    threads_option,
)
from edgellama.cli.options.token_count import TokenCount

if TYPE_CHECKING:
    from edgellama.engine.card.choice import AttentionChoice
    from edgellama.generation.speculation.speculation import SpeculationMode

PROMPT_CACHE_HELP = (
    "Memory for earlier texts, whose beginnings then need not be computed again: 2GB, 500MB, 0."
)
LOW_PRIORITY_HELP = "Let other programs go first; this is slower while they compute."
EXACT_HELP = (
    "Give the same text, bit for bit, alone, beside others and from a cache; a little slower."
)
ROPE_SCALING_HELP = (
    "Read texts N times as long as the model was trained for: yarn:N, dynamic:N or linear:N."
)
SPECULATION_HELP = (
    "Guess the next tokens from the text itself and check several at once: auto, on or off."
)
DRAFT_HELP = "A smaller model with the same vocabulary that guesses tokens, too."
ATTENTION_HELP = (
    "Compute attention on the CPU, on an NVIDIA card (cuda), or on the card where it is "
    "faster (auto)."
)
GPU_HELP = "Number of the card, from 0.  [default: the first that can be used]"
GPU_MEMORY_HELP = "Limit the memory taken on the card, such as 2GB.  [default: what is free]"
ATTENTION_MODES = ("cpu", "cuda", "auto")
SPECULATION_MODES: dict[str, SpeculationMode] = {"auto": "auto", "on": True, "off": False}
ENGINE_ARGUMENTS = (
    *("context_length", "num_threads", "kv_type", "cache_limit", "exact", "speculation", "draft"),
    *("rope_scaling", "low_priority", "attention", "gpu", "gpu_memory"),
)
"""Of ``Llama``: what the options of ``engine_options`` are called there."""


def engine_options(command: Command) -> Command:
    """Add options for loading a model that writes texts."""
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
    """Add options for loading a model that only reads texts."""
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
        text="How many tokens the model can look back on, such as 8k.  [default: the model's own]",
        kind=TokenCount,
    )(command)


def attention_options(command: Command) -> Command:
    """Add options for where attention is computed."""
    return click.option(
        "--attention", type=click.Choice(ATTENTION_MODES), help=f"{ATTENTION_HELP}  [default: auto]"
    )(gpu_options(command))


def gpu_options(command: Command) -> Command:
    """Add options for the card and its memory."""
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
    """Add the option for the type that a model is converted to before it runs."""
    return click.option(
        "--type",
        "type_name",
        type=TYPE,
        metavar="TYPE",
        help="Convert MODEL to TYPE first, such as q4_0, and keep the result.  "
        "[default: no conversion; q4_k_m for a checkpoint]",
    )(command)


def take_engine_arguments(options: dict[str, Any]) -> dict[str, Any]:
    """The engine options that the user has set, which then are no longer among ``options``."""
    return given_options({name: options.pop(name, None) for name in ENGINE_ARGUMENTS})
