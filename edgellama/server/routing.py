"""What modules of routes share: the table's form, and the way from a request to the server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from starlette.requests import Request
from starlette.responses import Response

from edgellama.server.state import ServerState

Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]
Routes: TypeAlias = "tuple[tuple[str, tuple[str, ...], Endpoint], ...]"
"""Path, methods and function of each."""


def state_of(request: Request) -> ServerState:
    """The state of the server that a request came to."""
    state: ServerState = request.app.state.server
    return state
