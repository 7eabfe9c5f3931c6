"""Responses that later requests continue, in a SQLite file of the user's.

A row holds all messages up to its own reply, so a request needs one row alone. Old rows are
deleted, and the oldest ones if all together take too much.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from edgellama.server.stores.sqlite_file import SqliteFile

MAX_AGE_S = 30 * 86400.0
"""As long as OpenAI keeps them."""
MAX_BYTES = 1_000_000_000
"""What all may take before another comes: an agent's chat is in each of its hundreds of rows."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS responses (
    id TEXT PRIMARY KEY, created REAL NOT NULL, response BLOB NOT NULL, messages BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS responses_by_age ON responses (created);
"""
_FORGET_OLDEST = """
DELETE FROM responses WHERE id IN (
    SELECT id FROM responses ORDER BY created LIMIT 1 + (SELECT count(*) FROM responses) / 8
)
"""


def usual_store() -> Path:
    """The file in the user's data folder."""
    from platformdirs import user_data_path

    return user_data_path("edgellama", appauthor=False) / "responses.sqlite"


class ResponseStore:
    """Responses by id; the file is made with the first one. RequestError if it fails."""

    def __init__(self, path: Path) -> None:
        self._file = SqliteFile(path, lambda connection: connection.executescript(_SCHEMA))

    async def save(
        self, response: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]
    ) -> None:
        """Keep a response with all messages up to its end."""
        row = (response["id"], time.time(), _encode(response), _encode(messages))

        def work(connection: sqlite3.Connection) -> None:
            oldest = time.time() - MAX_AGE_S
            connection.execute("DELETE FROM responses WHERE created < ?", (oldest,))
            while _used_bytes(connection) > MAX_BYTES:
                if not connection.execute(_FORGET_OLDEST).rowcount:
                    break
            connection.execute("INSERT OR REPLACE INTO responses VALUES (?, ?, ?, ?)", row)

        await self._file.ask(work)

    async def check(self) -> None:
        """RequestError if the file cannot be used, before anything is made that is to be kept."""
        await self._file.ask(lambda connection: None)

    async def find(self, name: str) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
        """A response and its messages; None if it is not there."""

        def work(connection: sqlite3.Connection) -> Any:
            wanted = "SELECT response, messages FROM responses WHERE id = ?"
            return connection.execute(wanted, (name,)).fetchone()

        row = await self._file.ask(work)
        return None if row is None else (msgspec.json.decode(row[0]), msgspec.json.decode(row[1]))

    async def remove(self, name: str) -> bool:
        """Forget a response; whether it was there."""

        def work(connection: sqlite3.Connection) -> int:
            return connection.execute("DELETE FROM responses WHERE id = ?", (name,)).rowcount

        return await self._file.ask(work) > 0

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def _used_bytes(connection: sqlite3.Connection) -> int:
    """What the rows take; the file keeps its size for those to come."""
    counts = [
        connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count", "page_size")
    ]
    return int((counts[0] - counts[1]) * counts[2])


def _encode(value: object) -> bytes:
    return msgspec.json.encode(value)
