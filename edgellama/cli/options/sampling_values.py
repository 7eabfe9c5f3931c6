"""Sampling options as a user writes and reads them: one text for each value.

The command line and the chat use it. ``sampling.options`` knows which values are allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from edgellama.quant.errors import InvalidOptionError
from edgellama.sampling.options import RULES
from edgellama.sampling.presets import PRESETS

NONE = "none"
_TRUTHS = {"true": True, "on": True, "yes": True, "1": True}
_TRUTHS |= {"false": False, "off": False, "no": False, "0": False}


def breaker_texts(texts: Sequence[str]) -> tuple[str, ...]:
    """DRY's breakers as a user writes them: \\n and \\t stand for themselves, none for no text."""
    if tuple(texts) == (NONE,):
        return ()
    return tuple(text.replace("\\n", "\n").replace("\\t", "\t") for text in texts)


def _sampler_names(text: str) -> tuple[str, ...]:
    return tuple(text.replace(";", " ").replace(",", " ").split())


def _bias_pairs(text: str) -> list[tuple[int | str, float]]:
    import json

    pairs = json.loads(text)
    if not isinstance(pairs, list) or not all(isinstance(p, list) and len(p) == 2 for p in pairs):
        raise ValueError
    return [(token, amount) for token, amount in pairs]


def _truth(text: str) -> bool:
    if text.lower() not in _TRUTHS:
        raise ValueError
    return _TRUTHS[text.lower()]


_READ_BY_KIND: Mapping[object, tuple[Callable[[str], Any], str]] = {
    Real: (float, "a number"),
    Integral: (int, "a whole number"),
    bool: (_truth, "on or off"),
}
_READ_BY_NAME: Mapping[str, tuple[Callable[[str], Any], str]] = {
    "seed": (lambda text: None if text == NONE else int(text), "a whole number or none"),
    "dry_breakers": (lambda text: breaker_texts(text.split()), "texts with spaces between"),
    "samplers": (_sampler_names, "names with commas between"),
    "logit_bias": (
        lambda text: None if text == NONE else _bias_pairs(text),
        'pairs as JSON, such as [[42, -1.5], [" Paris", false]], or none',
    ),
}
READERS: Mapping[str, tuple[Callable[[str], Any], str]] = {
    **{
        name: _READ_BY_NAME.get(name) or _READ_BY_KIND[rule.range.kind]
        for name, rule in RULES.items()
    },
    "preset": (lambda text: None if text == NONE else text, " or ".join((*PRESETS, NONE))),
}
"""By option: how its value is read, and what it may be."""


def read_value(name: str, text: str, beside: str = "") -> Any:
    """The value that a user wrote; InvalidOptionError if it is of another kind."""
    read, words = READERS[name]
    try:
        return read(text)
    except ValueError:
        raise InvalidOptionError(f"{name} is {text!r}; allowed: {words}{beside}") from None


def written_value(name: str, value: Any) -> str:
    """The value as a user would write it."""
    if value is None or value == ():
        return NONE
    if name == "logit_bias":
        import json

        return json.dumps([[token, amount] for token, amount in dict(value).items()])
    if name == "samplers":
        return ",".join(value)
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return " ".join(text.replace("\n", "\\n").replace("\t", "\\t") for text in value)
    return f"{value}"
