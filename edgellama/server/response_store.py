"""Responses that later requests go on from, in a SQLite file of the user's.

A row has all messages up to its own reply, so that going on needs one row alone. Old rows go.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

MAX_AGE_S = 30 * 86400.0
"""As long as OpenAI keeps them."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS responses (
    id TEXT PRIMARY KEY, created REAL NOT NULL, response BLOB NOT NULL, messages BLOB NOT NULL
)
"""


def usual_store() -> Path:
    """The file in the user's data folder."""
    from platformdirs import user_data_path

    return user_data_path("edgellama", appauthor=False) / "responses.sqlite"


class ResponseStore:
    """Responses by id. Used by any thread; the file is made with the first response."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def save(self, response: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]) -> None:
        """Keep a response with all messages up to its end."""
        row = (response["id"], time.time(), _encode(response), _encode(messages))
        with self._lock, self._open() as connection:
            connection.execute(
                "DELETE FROM responses WHERE created < ?", (time.time() - MAX_AGE_S,)
            )
            connection.execute("INSERT OR REPLACE INTO responses VALUES (?, ?, ?, ?)", row)

    def find(self, name: str) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
        """A response and its messages; None if it is not there."""
        with self._lock, self._open() as connection:
            rows = connection.execute(
                "SELECT response, messages FROM responses WHERE id = ?", (name,)
            ).fetchall()
        if not rows:
            return None
        return msgspec.json.decode(rows[0][0]), msgspec.json.decode(rows[0][1])

    def remove(self, name: str) -> bool:
        """Forget a response; whether it was there."""
        with self._lock, self._open() as connection:
            cursor = connection.execute("DELETE FROM responses WHERE id = ?", (name,))
        return cursor.rowcount > 0

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # What people said is theirs alone.
            with contextlib.suppress(FileExistsError):
                os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            self._connection = sqlite3.connect(self._path, check_same_thread=False, timeout=10)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute(_SCHEMA)
        return self._connection


def _encode(value: object) -> bytes:
    return msgspec.json.encode(value)
