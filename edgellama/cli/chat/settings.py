"""Options of replies as a user sets and reads them in the chat: names, values, defaults.

``sampling.options`` knows what the values mean, and which ones are allowed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from edgellama.cli.options.sampling_values import NONE, READERS, read_value, written_value
from edgellama.quant.error_text import nearest
from edgellama.quant.errors import InvalidOptionError
from edgellama.sampling.options import RULES, SamplingOptions

DEFAULT = "default"
RESET = f"; {DEFAULT} resets it"
ALIASES = {"temp": "temperature"}


def _texts(text: str) -> tuple[str, ...]:
    """The texts that a user wrote: one as it stands, or some in quotes as in JSON."""
    if text == NONE:
        return ()
    rest, found = text, []
    while rest.startswith('"'):
        one, end = json.JSONDecoder().raw_decode(rest)
        found.append(one)
        rest = rest[end:].lstrip()
    if found and rest:
        raise ValueError
    return tuple(found) or (text,)


def _written_texts(texts: str | Sequence[str] | None) -> str:
    if isinstance(texts, str):
        texts = (texts,)
    return " ".join(json.dumps(text, ensure_ascii=False) for text in texts or ()) or NONE


_REASONING = {"on": True, "off": False, "auto": "auto", "split": "split", "raw": "raw"}
"""Whether a model thinks before it answers, in words."""
REASONING_WORDS = "on, off, auto, split"


def _reasoning(text: str) -> object:
    if text not in _REASONING:
        raise ValueError
    return _REASONING[text]


def _written_reasoning(value: object) -> str:
    given = "auto" if value is None else value
    return next(word for word, meant in _REASONING.items() if meant == given)


_TEXTS = (_texts, 'a text, or several in quotes, such as "one" "two", or none')
OTHER_READERS: Mapping[str, tuple[Callable[[str], Any], str]] = {
    "max_tokens": (lambda text: None if text == NONE else int(text), "a whole number or none"),
    "max_reasoning_tokens": (
        lambda text: None if text == NONE else int(text),
        "a whole number or none",
    ),
    "timeout": (lambda text: None if text == NONE else float(text), "seconds or none"),
    "reasoning": (_reasoning, f"{REASONING_WORDS} or raw"),
    "stop": _TEXTS,
    "banned": _TEXTS,
}
"""By option that is none of sampling: how its value is read, and what it may be."""
OPTION_NAMES = (*READERS, *OTHER_READERS)


def option_name(text: str) -> str:
    """The option that a user means; InvalidOptionError, with a suggestion, for an unknown one."""
    name = text.lower().removeprefix("--").replace("-", "_")
    name = ALIASES.get(name, name)
    if name not in OPTION_NAMES:
        meant = nearest(name, (*ALIASES, *OPTION_NAMES))
        hint = f"allowed: {', '.join(OPTION_NAMES)}"
        if meant is not None:
            hint = f"did you mean {ALIASES.get(meant, meant)}?"
        raise InvalidOptionError(f"unknown option {text}; {hint}")
    return name


def option_value(name: str, text: str) -> object:
    """The value that a user wrote; InvalidOptionError if it is of another kind."""
    if name in READERS:
        return read_value(name, text, RESET)
    read, words = OTHER_READERS[name]
    try:
        return read(text)
    except ValueError:
        raise InvalidOptionError(f"{name} is {text!r}; allowed: {words}{RESET}") from None


_NUMBERS = ("preset", "max_tokens", "max_reasoning_tokens", "timeout")


def option_rows(options: Mapping[str, Any]) -> dict[str, str]:
    """Every option with its value as a user would write it."""
    sampling = {name: value for name, value in options.items() if name in RULES}
    values = asdict(SamplingOptions(**sampling))
    others = {name: options.get(name) for name in _NUMBERS}
    rows = {name: written_value(name, value) for name, value in (values | others).items()}
    rows["reasoning"] = _written_reasoning(options.get("reasoning"))
    return rows | {name: _written_texts(options.get(name)) for name in ("stop", "banned")}


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
