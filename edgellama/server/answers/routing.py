"""What all modules of routes share: the form of their table, and a request's way to the server.

The modules of each protocol know their paths.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from starlette.requests import Request
from starlette.responses import Response

from edgellama.models.made import Preset
from edgellama.server.answers.state import ServerState
from edgellama.server.connections.wire import encode_json, read_json

logger = logging.getLogger(__name__)

Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]
Routes: TypeAlias = "tuple[tuple[str, tuple[str, ...], Endpoint], ...]"
"""Path, methods and function of each."""


def state_of(request: Request) -> ServerState:
    """The state of the server that a request came to."""
    state: ServerState = request.app.state.server
    return state


async def read_for_model(request: Request) -> tuple[dict[str, Any], Preset]:
    """The JSON object that a request sends, and the preset of the model that it names."""
    body = await read_request(request)
    name = body.get("model") or body.get("name")
    is_named = isinstance(name, str)
    return body, state_of(request).catalogue.find(name if is_named else None).preset


async def read_request(request: Request) -> dict[str, Any]:
    """The JSON object that a request sends; it goes to the log where that was asked for."""
    settings = state_of(request).settings
    body = await read_json(request, settings.limits)
    if settings.log_prompts:
        logger.info("asked: %s", encode_json(body).decode())
    return body
