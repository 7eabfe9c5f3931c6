"""The page's conversations, in a SQLite file of the user's beside that of the responses.

Messages form a tree: an edited or repeated message is a sibling of the first one, and a
conversation knows which leaf is shown. Everything here except the file itself is a function of an
open connection.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgspec

from edgellama.server.stores.sqlite_file import SqliteFile

NAME = "conversations.sqlite"
MAX_FOUND = 500
"""Conversations in a list, the latest."""
MAX_WORDS = 16
SNIPPET_CHARACTERS = 90
_SCHEMA = """
CREATE TABLE IF NOT EXISTS conversations (
    id TEXT PRIMARY KEY, title TEXT NOT NULL, created REAL NOT NULL, changed REAL NOT NULL,
    leaf TEXT, settings BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS messages (
    id TEXT PRIMARY KEY,
    conversation TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
    parent TEXT, role TEXT NOT NULL, content TEXT NOT NULL, created REAL NOT NULL,
    details BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS messages_of ON messages (conversation);
"""
_HOLDS = """(holds(title, ?) OR EXISTS (
    SELECT 1 FROM messages WHERE conversation = conversations.id AND holds(content, ?)))"""
_MESSAGE_NAMES = ("id", "parent", "role", "content", "created")


@dataclass(frozen=True)
class StoredMessage:
    """A message under ``parent``, None for a first one; ``details`` are figures of a reply."""

    id: str
    parent: str | None
    role: str
    content: str
    created: float = field(default_factory=time.time)
    details: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """All of it for the page."""
        return {
            "id": self.id,
            "parent": self.parent,
            "role": self.role,
            "content": self.content,
            "created": self.created,
            "details": dict(self.details),
        }


class Draft(Protocol):
    """A reply that is not in the file as it is, for other tabs to see."""

    is_open: bool
    """Whether it is being written."""

    def message(self) -> StoredMessage:
        """The reply as far as it has come."""
        ...


def conversation_file(path: Path) -> SqliteFile:
    """The file of the conversations."""
    return SqliteFile(path, _prepare)


def _prepare(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA foreign_keys=ON")
    connection.create_function("holds", 2, _holds, deterministic=True)
    connection.executescript(_SCHEMA)


def listed(connection: sqlite3.Connection, search: str = "") -> list[dict[str, Any]]:
    """Conversations that hold every word of ``search``, the latest first."""
    words = search.casefold().split()[:MAX_WORDS]
    where = " AND ".join([_HOLDS] * len(words)) or "1"
    rows = connection.execute(
        f"SELECT id, title, created, changed FROM conversations WHERE {where}"
        " ORDER BY changed DESC LIMIT ?",
        (*(word for word in words for _ in range(2)), MAX_FOUND),
    ).fetchall()
    names = ("id", "title", "created", "changed")
    found = [dict(zip(names, row, strict=True)) for row in rows]
    if words:
        for each in found:
            each["snippet"] = _snippet(connection, each["id"], words[0])
    return found


def whole(connection: sqlite3.Connection, name: str) -> dict[str, Any] | None:
    """A conversation with all messages, the oldest first; None if it is not there."""
    row = connection.execute(
        "SELECT id, title, created, changed, leaf, settings FROM conversations WHERE id = ?",
        (name,),
    ).fetchone()
    if row is None:
        return None
    names = ("id", "title", "created", "changed", "leaf")
    messages = connection.execute(
        "SELECT id, parent, role, content, created, details FROM messages"
        " WHERE conversation = ? ORDER BY rowid",
        (name,),
    ).fetchall()
    return {
        **dict(zip(names, row[:5], strict=True)),
        "settings": msgspec.json.decode(row[5]),
        "messages": [
            {
                **dict(zip(_MESSAGE_NAMES, row, strict=False)),
                "details": msgspec.json.decode(row[-1]),
            }
            for row in messages
        ],
    }


def path_to(conversation: Mapping[str, Any], leaf: str) -> list[dict[str, Any]] | None:
    """The messages from the first one to ``leaf``; None if there is no such message."""
    by_id = {each["id"]: each for each in conversation["messages"]}
    path: list[dict[str, Any]] = []
    step: str | None = leaf
    while step is not None:
        # Messages never change their parents, so that no path comes back to where it was.
        if step not in by_id:
            return None
        path.append(by_id[step])
        step = by_id[step]["parent"]
    return path[::-1]


def begin(
    connection: sqlite3.Connection,
    name: str,
    title: str,
    settings: Mapping[str, Any],
    messages: Sequence[StoredMessage],
) -> None:
    """Add messages, of which the last is shown, to a conversation that is made if need be."""
    now = time.time()
    connection.execute(
        "INSERT INTO conversations VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (id) DO UPDATE SET changed = excluded.changed, leaf = excluded.leaf,"
        " settings = excluded.settings",
        (name, title, now, now, messages[-1].id, msgspec.json.encode(settings)),
    )
    connection.executemany(
        "INSERT OR IGNORE INTO messages VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (each.id, name, each.parent, each.role, each.content, each.created,
             msgspec.json.encode(each.details))
            for each in messages
        ],
    )  # fmt: skip


def finish(connection: sqlite3.Connection, message: StoredMessage) -> None:
    """Keep what a reply has become."""
    connection.execute(
        "UPDATE messages SET content = ?, details = ? WHERE id = ?",
        (message.content, msgspec.json.encode(message.details), message.id),
    )


def change(connection: sqlite3.Connection, name: str, title: str | None, leaf: str | None) -> bool:
    """Give another title, or show another leaf; whether conversation and leaf are there."""
    row = connection.execute("SELECT title, leaf FROM conversations WHERE id = ?", (name,))
    before = row.fetchone()
    if before is None:
        return False
    if (
        leaf is not None
        and not connection.execute(
            "SELECT 1 FROM messages WHERE id = ? AND conversation = ?", (leaf, name)
        ).fetchone()
    ):
        return False
    connection.execute(
        "UPDATE conversations SET title = ?, leaf = ? WHERE id = ?",
        (before[0] if title is None else title, before[1] if leaf is None else leaf, name),
    )
    return True


def remove(connection: sqlite3.Connection, name: str) -> bool:
    """Forget a conversation; whether it was there."""
    return connection.execute("DELETE FROM conversations WHERE id = ?", (name,)).rowcount > 0


def _snippet(connection: sqlite3.Connection, name: str, word: str) -> str:
    """What stands around a word, if a message has it."""
    row = connection.execute(
        "SELECT content FROM messages WHERE conversation = ? AND holds(content, ?)"
        " ORDER BY rowid LIMIT 1",
        (name, word),
    ).fetchone()
    if row is None:
        return ""
    text = " ".join(row[0].split())
    start = max(0, text.casefold().find(word) - SNIPPET_CHARACTERS // 3)
    return ("…" if start else "") + text[start : start + SNIPPET_CHARACTERS]


def _holds(text: str, word: str) -> bool:
    return word in text.casefold()
