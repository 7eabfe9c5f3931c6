"""Reads a conversation that the page has exported: checks it, and gives it new ids.

``stores.page_conversations`` keeps it.
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from edgellama.quant.error_text import shown
from edgellama.server.errors import refused
from edgellama.server.fields.fields import convert
from edgellama.server.stores import page_conversations as conversations
from edgellama.server.stores.page_conversations import StoredMessage

MAX_TITLE = 200


class Details(msgspec.Struct, omit_defaults=True):
    """What the page shows beside a reply; whatever else a file has is left out."""

    model: str | None = None
    finish_reason: str | None = None
    error: str | None = None
    reasoning: str | None = None
    prompt_tokens: int | None = None
    generated_tokens: int | None = None
    cached_tokens: int | None = None
    dropped_messages: int | None = None
    context_length: int | None = None
    tokens_per_second: float | None = None
    prefill_tokens_per_second: float | None = None
    first_token_seconds: float | None = None


class ImportedMessage(msgspec.Struct):
    """A message of a file."""

    id: str
    role: Literal["user", "assistant"]
    content: str
    created: float = msgspec.field(default_factory=time.time)
    parent: str | None = None
    details: Details = msgspec.field(default_factory=Details)


class ImportedSettings(msgspec.Struct):
    """What a conversation was made with."""

    model: str = ""
    system: str = ""
    options: dict[str, Any] = {}


class ImportedConversation(msgspec.Struct):
    """A file that was exported as JSON: all messages, the oldest first."""

    title: str
    messages: list[ImportedMessage]
    leaf: str | None = None
    settings: ImportedSettings = msgspec.field(default_factory=ImportedSettings)


def read_import(body: Mapping[str, Any]) -> ImportedConversation:
    """The conversation of a file; RequestError names what is wrong."""
    found = convert(body, ImportedConversation)
    found.title = clean_title(found.title)
    if not found.messages:
        raise refused("messages", "messages is empty; allowed: at least one message")
    stop = found.settings.options.get("stop", [])
    if not (isinstance(stop, list) and all(isinstance(text, str) for text in stop)):
        raise refused("settings", "settings.options.stop is no list of texts")
    known: set[str | None] = {None}
    for number, message in enumerate(found.messages):
        place = f"messages[{number}]"
        if message.id in known:
            raise refused(place, f"{place}.id is {shown(message.id)} again; allowed: a new one")
        if message.parent not in known:
            parent = shown(message.parent)
            raise refused(
                place, f"{place}.parent is {parent}; allowed: an earlier message, or none"
            )
        known.add(message.id)
        if message.details.finish_reason == "writing":
            message.details.finish_reason = None  # Nobody writes it here.
    if found.leaf not in known:
        raise refused("leaf", f"leaf is {shown(found.leaf)}; allowed: the id of a message")
    return found


def clean_title(text: str) -> str:
    """A title in one line; RequestError if there is none."""
    title = " ".join(text.split())[:MAX_TITLE]
    if not title:
        raise refused("title", "title is empty; allowed: some text")
    return title


def keep_import(connection: sqlite3.Connection, found: ImportedConversation) -> str:
    """Keep a conversation beside the others; its id."""
    name = secrets.token_hex(12)
    names = {message.id: secrets.token_hex(12) for message in found.messages}
    messages = [
        StoredMessage(
            names[each.id],
            names[each.parent] if each.parent is not None else None,
            each.role,
            each.content,
            each.created,
            msgspec.to_builtins(each.details),
        )
        for each in found.messages
    ]
    settings = msgspec.to_builtins(found.settings)
    conversations.begin(connection, name, found.title, settings, messages)
    if found.leaf is not None:
        conversations.change(connection, name, None, names[found.leaf])
    return name
