"""Conversations on disk: titles and messages in SQLite, found again by any of their words."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from events import Message

TITLE_CHARACTERS = 48
SCHEMA = """
CREATE TABLE IF NOT EXISTS conversations
    (id INTEGER PRIMARY KEY, title TEXT NOT NULL, changed REAL NOT NULL);
CREATE TABLE IF NOT EXISTS messages
    (conversation INTEGER NOT NULL REFERENCES conversations(id) ON DELETE CASCADE,
     number INTEGER NOT NULL, role TEXT NOT NULL, content TEXT NOT NULL,
     PRIMARY KEY (conversation, number));
"""


@dataclass(frozen=True)
class Entry:
    """A conversation in the list."""

    number: int
    title: str


class Conversations:
    """The conversations of one user, the latest first; used by one thread."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(path)
        # Nothing waits for the disk: after a power cut the last words may be missing, no more.
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = NORMAL")
        self._database.execute("PRAGMA foreign_keys = ON")
        self._database.executescript(SCHEMA)

    def find(self, words: str = "") -> list[Entry]:
        """Conversations in which each of some words stands, in the title or in a message."""
        condition, values = "1", []
        for word in words.split():
            pattern = "%" + word.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_") + "%"
            condition += (
                r" AND (title LIKE ? ESCAPE '\' OR EXISTS (SELECT 1 FROM messages"
                r" WHERE conversation = id AND content LIKE ? ESCAPE '\'))"
            )
            values += [pattern, pattern]
        rows = self._database.execute(
            f"SELECT id, title FROM conversations WHERE {condition} ORDER BY changed DESC", values
        )
        return [Entry(*row) for row in rows]

    def messages(self, number: int) -> list[Message]:
        """What was said."""
        rows = self._database.execute(
            "SELECT role, content FROM messages WHERE conversation = ? ORDER BY number", (number,)
        )
        return [{"role": role, "content": content} for role, content in rows]

    def save(self, number: int | None, messages: Sequence[Message]) -> int:
        """Keep a conversation as it is now, a new one under a new number, which is returned."""
        said = [message["content"] for message in messages if message["role"] == "user"]
        title = " ".join(said[0].split())[:TITLE_CHARACTERS] if said else "New conversation"
        with self._database as database:
            if number is None:
                number = database.execute(
                    "INSERT INTO conversations (title, changed) VALUES (?, ?)", (title, time.time())
                ).lastrowid
                assert number is not None
            else:
                database.execute(
                    "UPDATE conversations SET title = ?, changed = ? WHERE id = ?",
                    (title, time.time(), number),
                )
            database.execute("DELETE FROM messages WHERE conversation = ?", (number,))
            database.executemany(
                "INSERT INTO messages VALUES (?, ?, ?, ?)",
                [(number, i, m["role"], m["content"]) for i, m in enumerate(messages)],
            )
        return number

    def delete(self, number: int) -> None:
        """Forget a conversation."""
        with self._database as database:
            database.execute("DELETE FROM conversations WHERE id = ?", (number,))

    def close(self) -> None:
        """Close the file."""
        self._database.close()
