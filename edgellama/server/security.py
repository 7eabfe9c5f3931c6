"""Who may call the server at all: checked before anything of a request's body is read.

A page in a browser must not reach this server by another name (DNS rebinding) or from another
origin (CSRF), unless the origin is on the list. Then the key is checked, if there is one. Pages
are never given credentials: they send the key themselves.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

from edgellama.server.browser.files import FILES_PATH
from edgellama.server.connections.connections import CROWDED
from edgellama.server.connections.wire import json_response
from edgellama.server.errors import RequestError, error_shape, too_busy

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

APPLICATIONS = frozenset({"app", "tauri"})
"""Schemes of pages that are a program on this machine, such as Obsidian: no page from a network has
such an origin, and programs may call anyway. Editors' webviews are not among them, since they show
what strangers wrote."""
OPEN_PATHS = frozenset({"/", "/health"})
"""What needs no key: whether somebody is there."""
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
ANY_ADDRESS = frozenset({"0.0.0.0", "::", ""})
ALLOWED_METHODS = "GET, POST, DELETE, HEAD, OPTIONS"
PREFLIGHT_SECONDS = "600"
HTTP_VERSIONS = ("1.0", "1.1")
OTHER_SITES = frozenset({"cross-site", "same-site"})
"""What browsers say of requests that come about on other pages; another port is the same site."""
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::\d{1,5})?", re.IGNORECASE)
"""A name or an address, and perhaps a port; nothing that two programs could read otherwise."""


class Guard:
    """An ASGI application that lets through to another what may pass."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        host: str,
        hosts: Iterable[str] = (),
        cors: Collection[str] = (),
        api_keys: Iterable[str] = (),
    ) -> None:
        """``host`` is what the server listens on, ``hosts`` further names of it.

        ``cors``: origins of pages, or "*" for all. ``api_keys``: any of them opens; none is open.
        """
        self._app = app
        self._takes_addresses = host in ANY_ADDRESS
        self._hosts = {*LOOPBACK_NAMES, host.strip("[]").lower(), *(h.lower() for h in hosts)}
        self._cors = frozenset(origin.rstrip("/").lower() for origin in cors)
        self._keys = [key.encode() for key in api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = _headers(scope)
        cors: list[tuple[bytes, bytes]] = []
        try:
            if (scope.get("extensions") or {}).get(CROWDED):
                raise too_busy("too many connections", "too_many_connections", 503)
            _check_form(scope)
            _check_length(headers)
            self._check_host(headers)
            cors = self._cors_headers(headers, scope.get("scheme", "http"))
            _check_site(headers, scope["path"])
            if scope["method"] == "OPTIONS":
                await _answer_options(send, headers, cors)
                return
            self._check_key(headers, scope["path"])
        except RequestError as error:
            shape = error_shape(scope["path"], headers)
            response = json_response(shape(error), error.status, error.headers)
            await response(scope, receive, _with_headers(send, cors))
            return
        await self._app(scope, receive, _with_headers(send, cors))

    def _check_host(self, headers: dict[str, str]) -> None:
        """Refuse names that are not ours: a foreign one may have been pointed here."""
        given = headers.get("host", "")
        name = _host_name(given)
        if name in self._hosts or (self._takes_addresses and _is_address(name)):
            return
        raise RequestError(
            403,
            f"the Host header is {given[:100]!a}; allowed: {', '.join(sorted(self._hosts - {''}))}"
            " (--allow-host adds one)",
            code="host_not_allowed",
        )

    def _cors_headers(self, headers: dict[str, str], scheme: str) -> list[tuple[bytes, bytes]]:
        """What a page of this origin is told; RequestError if it may not call."""
        origin = headers.get("origin")
        if origin is None:
            return []
        plain = origin.rstrip("/").lower()
        if "*" in self._cors:
            return [(b"access-control-allow-origin", b"*")]
        is_own = plain == f"{scheme}://{headers.get('host', '')}".lower()
        scheme_of_page, is_url, _ = plain.partition("://")
        is_of_program = bool(is_url) and scheme_of_page in APPLICATIONS
        if not (is_own or is_of_program or plain in self._cors):
            raise RequestError(
                403,
                f"pages of {origin[:100]!a} may not call; allowed: this server's own"
                + "".join(f", {other}" for other in sorted(self._cors))
                + " (--cors adds one)",
                code="origin_not_allowed",
            )
        allowed = origin.encode("latin-1")
        return [(b"access-control-allow-origin", allowed), (b"vary", b"Origin")]

    def _check_key(self, headers: dict[str, str], path: str) -> None:
        """Compare with every key, each in constant time."""
        if not self._keys or path in OPEN_PATHS or path.startswith(FILES_PATH):
            return
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        presented = given.encode("utf-8", "replace")
        # All keys are compared, so that the time does not tell which of them fits.
        num_fitting = sum(hmac.compare_digest(presented, key) for key in self._keys)
        if not num_fitting:
            raise RequestError(
                401,
                "the API key is wrong"
                if given
                else "an API key is needed; send it as Authorization: Bearer KEY, or as x-api-key",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )


def _check_form(scope: Scope) -> None:
    """Refuse other versions of HTTP, and targets that name a server: those are for proxies."""
    version = scope.get("http_version", "1.1")
    if version not in HTTP_VERSIONS:
        allowed = ", ".join(HTTP_VERSIONS)
        raise RequestError(
            505, f"the version of HTTP is {version[:10]!a}; allowed: {allowed}", code="http_version"
        )
    target = scope.get("raw_path") or scope["path"].encode()
    if not target.startswith(b"/") and (target, scope["method"]) != (b"*", "OPTIONS"):
        raise RequestError(
            400,
            f"the target is {target[:100].decode('latin-1')!a}; allowed: a path such as /v1/models"
            " (is this server set as a proxy?)",
            code="invalid_target",
        )


def _check_site(headers: dict[str, str], path: str) -> None:
    """Refuse what a page of another site makes a browser fetch without telling the page's origin.

    Such are pictures, scripts and links: no page reads their answers, but a model may be loaded.
    """
    site = headers.get("sec-fetch-site", "none")
    is_link = headers.get("sec-fetch-mode") == "navigate" and path == "/"
    if site in OTHER_SITES and "origin" not in headers and not is_link:
        raise RequestError(
            403,
            "a page of another site asks; allowed: links to /, and calls (fetch) of pages on the "
            "--cors list",
            code="origin_not_allowed",
        )


def _check_length(headers: dict[str, str]) -> None:
    """Refuse a body with two lengths, of which a proxy may have believed the other."""
    if "content-length" in headers and "transfer-encoding" in headers:
        raise RequestError(
            400,
            "the body has a Content-Length and a Transfer-Encoding; allowed: one of them",
            headers={"connection": "close"},
        )


def _headers(scope: Any) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def _host_name(text: str) -> str:
    """The name in a Host header, without its port and the brackets of an IPv6 address."""
    found = _HOST.fullmatch(text)
    return "" if found is None else (found[1] or found[2]).lower().rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


async def _answer_options(
    send: Send, headers: dict[str, str], cors: list[tuple[bytes, bytes]]
) -> None:
    """A browser's question before the call itself; it never carries the key."""
    answer = [(b"allow", ALLOWED_METHODS.encode()), (b"content-length", b"0"), *cors]
    if cors:
        wanted = headers.get("access-control-request-headers", "authorization, content-type")
        answer += [
            (b"access-control-allow-methods", ALLOWED_METHODS.encode()),
            (b"access-control-allow-headers", wanted.encode("latin-1")),
            (b"access-control-max-age", PREFLIGHT_SECONDS.encode()),
        ]
        if "access-control-request-private-network" in headers:
            answer.append((b"access-control-allow-private-network", b"true"))
    await send({"type": "http.response.start", "status": 204, "headers": answer})
    await send({"type": "http.response.body", "body": b""})


def _with_headers(send: Send, more: list[tuple[bytes, bytes]]) -> Send:
    """``send`` that adds headers to the response, and those that every response has."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", ()), *more, (b"x-content-type-options", b"nosniff")]
            message = {**message, "headers": headers}
        await send(message)

    return sending
