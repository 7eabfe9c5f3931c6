"""A SQLite file of the user's, with one thread that does all work on it in order of arrival.

Errors of the file are explained in words: a full disk, no permission to write, damage.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from edgellama.server.errors import RequestError

logger = logging.getLogger(__name__)

WAIT_S = 10.0
"""How long another program may hold the file."""
_REASONS: Mapping[str, str] = {
    "disk is full": "the disk is full",
    "readonly": "it may not be written",
    "unable to open": "it cannot be opened; look at the rights of it and of its folder",
    "locked": "another program holds it",
    "malformed": "it is damaged; move it away, and a new one is made",
    "not a database": "it is damaged; move it away, and a new one is made",
}
"""What SQLite says, in part, and what users are told."""
Result = TypeVar("Result")


class SqliteFile:
    """The file and its thread; both are there once something is asked."""

    def __init__(self, path: Path, prepare: Callable[[sqlite3.Connection], object]) -> None:
        """``prepare`` makes tables and the like, each time the file is opened."""
        self._path = path
        self._prepare = prepare
        self._connection: sqlite3.Connection | None = None
        self._opened: tuple[int, int] | None = None
        self._thread = ThreadPoolExecutor(1, f"edgellama-{path.stem}")

    async def ask(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """What ``work`` finds or does, as one transaction; RequestError if the file fails."""
        return await asyncio.wrap_future(self._thread.submit(self._run, work))

    def tell(self, work: Callable[[sqlite3.Connection], object]) -> None:
        """Do ``work`` soon, before whatever is asked later; the log has what fails."""
        self._thread.submit(self._run, work).add_done_callback(_log_failure)

    def close(self) -> None:
        """Do what is left, and let go of the file."""
        self._thread.submit(self._close)
        self._thread.shutdown()

    def _run(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        try:
            with self._open() as connection:
                return work(connection)
        except (sqlite3.Error, OSError) as error:
            raise self._failed(error) from error

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None and self._opened != self._identity():
            logger.warning("%s is another file now, or gone; it is opened anew", self._path)
            self._close()
        if self._connection is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # Only the user may read the file: it holds what people said.
            with contextlib.suppress(FileExistsError):
                os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            connection = sqlite3.connect(self._path, timeout=WAIT_S)
            try:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=NORMAL")
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
            self._connection, self._opened = connection, self._identity()
        return self._connection

    def _identity(self) -> tuple[int, int] | None:
        """What tells the file from another at its place; None if there is none."""
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _failed(self, error: sqlite3.Error | OSError) -> RequestError:
        said = str(error.strerror or error) if isinstance(error, OSError) else str(error)
        reason = next((ours for part, ours in _REASONS.items() if part in said), said)
        logger.error("%s: %s", self._path, error)
        return RequestError(507, f"{self._path.name} cannot be used: {reason}", code="storage")


def _log_failure(done: Future[object]) -> None:
    error = done.exception()
    if error is not None and not isinstance(error, RequestError):
        logger.error("a file was not written", exc_info=error)
