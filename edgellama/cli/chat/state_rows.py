"""What the chat's commands tell of a chat: its model, options and memory, as rows of two columns.

``commands`` decides which command tells what.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from edgellama.cli.chat.chat import Chat
from edgellama.cli.chat.settings import usual_rows
from edgellama.kernels_cpu.machine.memory_use import peak_memory_bytes

WHEN_FULL: Mapping[str, str] = MappingProxyType(
    {
        "drop": "the oldest turns are left out",
        "stop": "the chat stops",
        "error": "an error is reported",
    }
)


def table(rows: Mapping[str, str], width: int = 16) -> str:
    """Two columns."""
    return "\n".join(f"{label:<{width}}{value}" for label, value in rows.items())


def options_in_force(chat: Chat) -> dict[str, Any]:
    """What holds for the next reply, and the preset that it came from."""
    return {**chat.conversation.options, "preset": chat.given.get("preset")}


def option_table(chat: Chat) -> str:
    """The options that somebody or the model has set, and the names of all others."""
    usual, others = usual_rows(options_in_force(chat))
    return f"{table(usual, 22)}\nAt their defaults: {', '.join(others)}."


def model_rows(chat: Chat) -> dict[str, str]:
    """The name, file and size of the model that is loaded."""
    from edgellama.models.facts import read_facts

    facts = read_facts(chat.path)
    return {
        "model": f"{facts.title or chat.path.stem}, {facts.type}",
        "file": f"{chat.path}",
        "parameters": f"{facts.num_parameters:,}",
    }


def memory_rows(chat: Chat) -> dict[str, str]:
    """How much of the context and of memory is used."""
    conversation = chat.conversation
    session = conversation.session
    rows = {
        "messages": f"{len(conversation.messages)}",
        "context": f"{len(session.tokens) if chat.is_begun else 0:,} of "
        f"{session.context_length:,} tokens",
        "prompt cache": f"{chat.llama.cached_bytes / 1e6:,.0f} of "
        f"{chat.llama.cache_limit / 1e6:,.0f} MB",
        "when full": WHEN_FULL[chat.settings.when_full],
        "peak memory": f"{peak_memory_bytes() / 1e6:,.0f} MB",
    }
    if conversation.dropped_messages:
        rows["not seen"] = f"the oldest {conversation.dropped_messages} messages"
    return rows


SHOW_TOPICS: Mapping[str, Callable[[Chat], str]] = MappingProxyType(
    {
        "model": lambda chat: table(model_rows(chat)),
        "options": option_table,
        "template": lambda chat: chat.conversation.template.source,
        "memory": lambda chat: table(memory_rows(chat)),
    }
)
