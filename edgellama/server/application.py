"""The routes of all protocols, and what every request passes through.

``run`` handles sockets and signals.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from edgellama.quant.error_text import nearest
from edgellama.server import lm_studio_routes, plain_routes
from edgellama.server.answers.routing import Endpoint
from edgellama.server.answers.state import ServerState
from edgellama.server.anthropic import routes as anthropic
from edgellama.server.browser import routes as browser
from edgellama.server.browser.files import FILES_PATH
from edgellama.server.connections.wire import json_response
from edgellama.server.errors import RequestError, as_request_error, error_shape, too_busy
from edgellama.server.judging import embeddings, moderations, reranking
from edgellama.server.llama_cpp import routes as llama_cpp
from edgellama.server.llama_cpp import state as llama_cpp_state
from edgellama.server.llama_cpp import tokens as llama_cpp_tokens
from edgellama.server.ollama import manage as ollama_manage
from edgellama.server.ollama import routes as ollama
from edgellama.server.openai import response_routes as openai_responses
from edgellama.server.openai import routes as openai
from edgellama.server.security import Guard
from edgellama.server.settings import ServerSettings

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)


def make_application(settings: ServerSettings) -> ASGIApp:
    """The whole server as an ASGI application; its state is made when it starts."""

    @asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        app.state.server = ServerState(settings)
        try:
            yield
        finally:
            await app.state.server.close()

    tables = [
        openai.ROUTES,
        openai_responses.ROUTES,
        embeddings.ROUTES,
        reranking.ROUTES,
        moderations.ROUTES,
        ollama.ROUTES,
        ollama_manage.ROUTES,
        anthropic.ROUTES,
        llama_cpp.ROUTES,
        llama_cpp_state.ROUTES,
        llama_cpp_tokens.ROUTES,
        lm_studio_routes.ROUTES,
        plain_routes.ROUTES,
    ]
    if settings.with_page:
        tables.append(browser.ROUTES)
    routes = [
        Route(path, _with_error_answers(endpoint), methods=list(methods))
        for table in tables
        for path, methods, endpoint in table
    ]
    handlers: dict[Any, Any] = {HTTPException: _http_error, Exception: _error}
    app = Starlette(routes=routes, lifespan=life, exception_handlers=handlers)
    guarded = Guard(
        app,
        host=settings.host,
        hosts=settings.hosts,
        cors=settings.cors,
        api_keys=settings.api_keys,
    )
    return Watched(guarded, app)


class Watched:
    """Makes paths plain, counts every answer and writes a line of it to the log.

    The line has nothing of what was said.
    """

    def __init__(self, app: ASGIApp, inner: Starlette) -> None:
        self._app = app
        self.inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["path"] = plain_path(scope["path"])
        started, status = time.perf_counter(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            route = scope.get("route")
            path = route.path if isinstance(route, Route) else "other"
            self.inner.state.server.metrics.count_request(path, status)
            seconds = time.perf_counter() - started
            logger.info("%s %s %d %.3f s", scope["method"], path, status, seconds)


def plain_path(path: str) -> str:
    """A path without slashes at its end and double ones, as base URLs that end in one give them."""
    if path.startswith(FILES_PATH):
        return path  # These names are in a list, as they stand.
    return re.sub("//+", "/", path).rstrip("/") or "/"


def _with_error_answers(endpoint: Endpoint) -> Endpoint:
    """An endpoint whose errors are answers in the shape of its protocol."""

    async def tell(request: Request) -> Response:
        try:
            return await endpoint(request)
        except ClientDisconnect:
            return Response(status_code=499)
        except asyncio.CancelledError:
            if not request.app.state.server.is_ending:
                raise
            # What no request could stop any more ends with the server; its client is told so.
            stopped = too_busy("the server was stopped", "shutting_down", 503)
            return _shaped(request, stopped)
        except Exception as error:
            return _shaped(request, as_request_error(error))

    return tell


def _shaped(request: Request, error: RequestError) -> Response:
    shape = error_shape(request.url.path, request.headers)
    return json_response(shape(error), error.status, error.headers)


async def _http_error(request: Request, error: HTTPException) -> Response:
    """No such route, or another method."""
    path = request.url.path
    texts = {
        404: f"there is no {request.method} {path[:100]!a} here{_nearest(request, path)}",
        405: f"{request.method} is not allowed here",
    }
    text = texts.get(error.status_code, str(error.detail))
    own = RequestError(error.status_code, text, code="no_route", headers=error.headers or {})
    return _shaped(request, own)


def _nearest(request: Request, path: str) -> str:
    """The path that may have been meant, such as one with /v1 before it."""
    paths = [route.path for route in request.app.routes if isinstance(route, Route)]
    with_prefix = f"/v1{path}"
    meant = with_prefix if with_prefix in paths else nearest(path, paths)
    return "" if meant is None else f"; did you mean {meant}?"


async def _error(request: Request, error: Exception) -> Response:
    return _shaped(request, as_request_error(error))
