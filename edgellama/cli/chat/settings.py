"""Options of replies as a user sets and reads them in the chat: names, values, defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from difflib import get_close_matches
from typing import Any

from edgellama.cli.sampling_values import NONE, READERS, read_value, written_value
from edgellama.quant.errors import InvalidOptionError
from edgellama.sampling.options import RULES, SamplingOptions

DEFAULT = "default"
ALIASES = {"temp": "temperature"}
OPTION_NAMES = (*READERS, "max_tokens")


def option_name(text: str) -> str:
    """The option that a user means; InvalidOptionError, with a suggestion, for an unknown one."""
    name = text.lower().removeprefix("--").replace("-", "_")
    name = ALIASES.get(name, name)
    if name not in OPTION_NAMES:
        close = get_close_matches(name, OPTION_NAMES, n=1)
        hint = f"; did you mean {close[0]}?" if close else f"; allowed: {', '.join(OPTION_NAMES)}"
        raise InvalidOptionError(f"unknown option {text}{hint}")
    return name


def option_value(name: str, text: str) -> object:
    """The value that a user wrote; InvalidOptionError if it is of another kind."""
    if name != "max_tokens":
        return read_value(name, text, f", or {DEFAULT}")
    try:
        return None if text == NONE else int(text)
    except ValueError:
        words = f"a whole number or none, or {DEFAULT}"
        raise InvalidOptionError(f"{name} is {text!r}; allowed: {words}") from None


def option_rows(options: Mapping[str, Any]) -> dict[str, str]:
    """Every option with its value as a user would write it."""
    sampling = {name: value for name, value in options.items() if name in RULES}
    values = asdict(SamplingOptions(**sampling))
    others = {name: options.get(name) for name in ("preset", "max_tokens")}
    return {name: written_value(name, value) for name, value in (values | others).items()}


def usual_rows(options: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """The rows of common options and of those that are set, and the names of the others."""
    defaults = option_rows({})
    usual, rest = {}, []
    for name, value in option_rows(options).items():
        if value != defaults[name] or name not in RULES or RULES[name].is_common:
            usual[name] = value
        else:
            rest.append(name)
    return usual, rest
