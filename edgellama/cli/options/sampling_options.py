"""Options for choosing tokens, and the arguments that they become.

Names and ranges come from the rules of ``edgellama.sampling``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import click

from edgellama.cli.options.options import RARE, Command
from edgellama.cli.options.sampling_values import READERS, breaker_texts, read_value
from edgellama.quant.error_text import nearest
from edgellama.sampling.options import RULES
from edgellama.sampling.presets import CHAT_SAMPLING, PRESETS

_CLICK_KINDS: Mapping[object, type] = {Real: float, Integral: int}
SAMPLING_OPTIONS = {
    name: (_CLICK_KINDS[rule.range.kind], rule.text, rule.default)
    for name, rule in RULES.items()
    if rule.is_common
}
"""By the API's name: type, help, default; the others are for --sampling."""
SHORT_NAMES = {"temperature": ("--temp",)}
SAMPLING_HELP = (
    "Set any other sampling option, such as xtc_probability=0.5; repeatable. docs/sampling.md "
    "lists them all."
)


def sampling_options(*, chat: bool) -> Callable[[Command], Command]:
    """Add the options of SAMPLING_OPTIONS, with the defaults of a chat or of plain text."""

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
            help=f"Start from other sampling defaults: {', '.join(PRESETS)}.",
        )(command)
        command = click.option(
            "--dry-breaker",
            "dry_breakers",
            multiple=True,
            metavar="TEXT",
            callback=lambda context, option, texts: breaker_texts(texts) if texts else None,
            help="End repeated sequences at this text; repeatable; none for nowhere.  "
            '[default: \\n : " *]',
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
            meant = nearest(name, READERS)
            hint = f"did you mean {meant}?" if meant else f"allowed: {', '.join(READERS)}"
            raise click.BadParameter(f"{text!r} is no NAME=VALUE of an option; {hint}")
        values[name] = read_value(name, value)
    return values
