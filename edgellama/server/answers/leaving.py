"""How work that runs in a thread learns that nobody waits for it any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgellama.server.errors import RequestError


class Leaving:
    """Says whether work is to end, since whoever asked has left; it looks between two steps."""

    error: RequestError | None = None

    def stop(self, error: RequestError) -> None:
        """Let the work end, and say why."""
        self.error = error

    def check(self) -> None:
        """RequestError if the work is to end."""
        if self.error is not None:
            raise self.error
