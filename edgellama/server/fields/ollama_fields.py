"""Checks requests in Ollama's protocol, and turns them into options of a text.

``ollama.routes`` has the paths, ``ollama.texts`` writes the answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from edgellama.quant.error_text import did_you_mean, nearest, shown
from edgellama.server.errors import refused
from edgellama.server.fields.constraints import ollama_format
from edgellama.server.fields.fields import (
    LOAD_OPTIONS,
    OTHER_NAMES,
    TEXT_FIELDS,
    THINKING_FIELDS,
    check_thinking_field,
    is_neutral,
    option_value,
    take_fields,
)
from edgellama.server.fields.log_probabilities import wanted_logprobs

WITHOUT_USE = frozenset({"mirostat_tau", "mirostat_eta"})
"""Options that change nothing as long as those beside them are off."""


class CommonFields(msgspec.Struct):
    """What both kinds of texts take."""

    model: str = ""
    name: str = ""
    stream: bool = True
    options: dict[str, Any] = {}
    keep_alive: float | str | None = None
    format: str | dict[str, Any] | None = None
    logprobs: bool = False
    top_logprobs: int | None = None
    truncate: bool | None = None
    shift: bool | None = None


class ChatFields(CommonFields):
    """``/api/chat``."""

    messages: list[dict[str, Any]] = []
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None


class GenerateFields(CommonFields):
    """``/api/generate``."""

    prompt: str = ""
    suffix: str = ""
    system: str = ""
    raw: bool = False
    context: list[int] = []


def take_ollama_fields(
    body: Mapping[str, Any], kind: type[CommonFields]
) -> tuple[Any, dict[str, Any]]:
    """The fields of a request, and the options of its text; RequestError for what is refused."""
    fields, top_level = take_fields(body, kind, ignored=LOAD_OPTIONS)
    options = {**text_options(fields.options), **top_level, **ollama_format(fields.format)}
    options |= wanted_logprobs(fields.logprobs, fields.top_logprobs)
    return fields, options


def text_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Ollama's ``options`` as options of a text."""
    options: dict[str, Any] = {}
    for name, value in given.items():
        ours = OTHER_NAMES.get(name, name)
        is_random = name == "seed" and isinstance(value, int) and value < 0
        if value is None or name in LOAD_OPTIONS or is_random:
            continue
        if ours in TEXT_FIELDS:
            options[ours] = option_value(ours, value)
        elif name in THINKING_FIELDS:
            check_thinking_field(name, value)
        elif name == "format":  # Where Obsidian's Copilot puts it.
            options |= ollama_format(value)
        elif name not in WITHOUT_USE and not is_neutral(name, value):
            allowed = sorted((TEXT_FIELDS - {"max_tokens"}) | LOAD_OPTIONS | {"num_predict"})
            guess = did_you_mean(nearest(name, allowed))
            text = f"there is no option {shown(name)}; {guess}allowed: {', '.join(allowed)}"
            raise refused("options", text)
    is_unlimited = isinstance(options.get("max_tokens"), int) and options["max_tokens"] < 0
    if is_unlimited:
        del options["max_tokens"]
    return options


def model_name(fields: CommonFields) -> str:
    """The model; older clients call it name."""
    return fields.model or fields.name
