"""The files of the page, read from their folder once, and sent with a policy that runs no others.

Their path contains a hash of them all. So browsers may keep them for ever, and never mix two
versions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from edgellama.server.answers.routing import Routes
from edgellama.server.errors import RequestError

FOLDER = Path(__file__).parent.parent / "page"
INDEX = "index.html"
FILES_PATH = "/page/files/"
"""What lies below needs no key: it is the same for everybody."""
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".webmanifest": "application/manifest+json",
}
POLICY = "; ".join(
    (
        *("default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self'"),
        *("connect-src 'self'", "manifest-src 'self'", "base-uri 'none'", "form-action 'none'"),
        *("frame-ancestors 'none'", "require-trusted-types-for 'script'"),
        "trusted-types dompurify",
    )
)
"""Scripts and styles of this server alone, nothing inline, no requests to anybody else."""
PAGE_HEADERS = {
    "content-security-policy": POLICY,
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


@dataclass(frozen=True)
class PageFiles:
    """What the folder has: the index, and other files by name, with a hash of all."""

    version: str
    index: bytes
    others: Mapping[str, bytes]

    @classmethod
    def read(cls, folder: Path) -> PageFiles:
        """The files of a folder, of the kinds that a page has."""
        paths = sorted(path for path in folder.rglob("*") if path.suffix in TYPES)
        others = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
        index = (folder / INDEX).read_text("utf-8")
        digest = hashlib.sha256(index.encode())
        for name, content in others.items():
            digest.update(b"%s\0%d\0%s" % (name.encode(), len(content), content))
        version = digest.hexdigest()[:16]
        return cls(version, index.replace("{files}", FILES_PATH + version).encode(), others)


@cache
def page_files() -> PageFiles:
    """The files of the page, read once."""
    return PageFiles.read(FOLDER)


def wants_page(request: Request) -> bool:
    """Whether a browser asks, and no client that only looks whether somebody is there."""
    return "text/html" in request.headers.get("accept", "")


def index_response() -> Response:
    """The page itself, which is asked for anew every time."""
    headers = {**PAGE_HEADERS, "cache-control": "no-cache", "vary": "Accept"}
    return Response(page_files().index, headers=headers, media_type="text/html; charset=utf-8")


async def file(request: Request) -> Response:
    """A file of the page, by its name in the list."""
    files, name = page_files(), request.path_params["name"]
    content = files.others.get(name)
    if content is None or request.path_params["version"] != files.version:
        raise RequestError(404, "the page has no such file", code="no_route")
    headers = {**PAGE_HEADERS, "cache-control": "public, max-age=31536000, immutable"}
    return Response(content, headers=headers, media_type=TYPES["." + name.rpartition(".")[2]])


ROUTES: Routes = ((FILES_PATH + "{version}/{name:path}", ("GET", "HEAD"), file),)
