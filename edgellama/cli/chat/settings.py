"""Options of replies as a user writes and reads them in the chat: names, values, defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from edgellama.cli.options import SAMPLING_OPTIONS, breaker_texts
from edgellama.quant.errors import InvalidOptionError
from edgellama.sampling.options import SamplingOptions

DEFAULT = "default"
NONE = "none"
ALIASES = {"temp": "temperature"}


def _whole(text: str) -> int | None:
    return None if text == NONE else int(text)


KINDS: Mapping[str, tuple[Callable[[str], Any], str]] = {
    **{
        name: (kind, "a whole number" if kind is int else "a number")
        for name, (kind, _, _) in SAMPLING_OPTIONS.items()
    },
    "seed": (_whole, "a whole number or none"),
    "dry_breakers": (lambda text: breaker_texts(text.split()), "texts with spaces between"),
    "max_tokens": (_whole, "a whole number or none"),
}
"""By option: how its value is read, and what it may be."""


def option_name(text: str) -> str:
    """The option that a user means; InvalidOptionError, with a suggestion, for an unknown one."""
    name = text.lower().removeprefix("--").replace("-", "_")
    name = ALIASES.get(name, name)
    if name not in KINDS:
        close = get_close_matches(name, KINDS, n=1)
        hint = f"; did you mean {close[0]}?" if close else f"; allowed: {', '.join(KINDS)}"
        raise InvalidOptionError(f"unknown option {text}{hint}")
    return name


def option_value(name: str, text: str) -> object:
    """The value that a user wrote; InvalidOptionError if it is of another kind."""
    read, words = KINDS[name]
    try:
        return read(text)
    except ValueError:
        raise InvalidOptionError(f"{name} is {text!r}; allowed: {words}, or {DEFAULT}") from None


def option_rows(options: Mapping[str, Any]) -> dict[str, str]:
    """Every option with its value as a user would write it."""
    sampling = {key: value for key, value in options.items() if key not in ("max_tokens", "stop")}
    values = {name: getattr(SamplingOptions(**sampling), name) for name in KINDS if name in _FIELDS}
    values["max_tokens"] = options.get("max_tokens")
    return {name: _written(values[name]) for name in KINDS}


_FIELDS = frozenset(SamplingOptions.__dataclass_fields__)


def _written(value: object) -> str:
    if value is None or value == ():
        return NONE
    if isinstance(value, tuple):
        return " ".join(text.replace("\n", "\\n").replace("\t", "\\t") for text in value)
    return f"{value}"
