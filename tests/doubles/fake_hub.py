"""A hub of models that speaks as the Hugging Face hub does to its own client, for tests.

It holds one repository, may send a file's beginning and hang up, and refuses as the hub does.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_secret"
POLL_SECONDS = 0.01
"""Between two looks whether the server is to end."""


@dataclass
class FakeHub:
    """What it holds, and what it was asked: method, path and range.

    ``cut``: bytes after which it hangs up, of so many answers. ``is_gated``: files are for those
    alone who have the token and were let in.
    """

    files: Mapping[str, bytes]
    repository: str = "me/mine"
    cut: list[int] = field(default_factory=list)
    is_gated: bool = False
    address: str = ""
    asked: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def downloads(self) -> list[tuple[str, str]]:
        """Files that were sent, with the range that was asked for."""
        return [(path, part) for method, path, part in self.asked
                if method == "GET" and "/resolve/" in path]  # fmt: skip


@contextmanager
def running_hub(hub: FakeHub) -> Iterator[FakeHub]:
    """Serve it; ``hub.address`` is what HF_ENDPOINT takes."""

    class Handler(_Handler):
        serves = hub

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(POLL_SECONDS,), daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()


class _Handler(http.server.BaseHTTPRequestHandler):
    serves: FakeHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        """As GET, without a body."""
        self._answer(has_body=False)

    def do_GET(self) -> None:
        """The repository's list, or a file."""
        self._answer(has_body=True)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the test's output clean."""

    def _answer(self, *, has_body: bool) -> None:
        hub, path = self.serves, self.path.partition("?")[0]
        hub.asked.append((self.command, path, self.headers.get("Range", "")))
        if path == f"/api/models/{hub.repository}":
            self._send(json.dumps(self._listed()).encode(), {}, has_body)
            return
        start = f"/{hub.repository}/resolve/"
        name = path.removeprefix(start).partition("/")[2]
        if not path.startswith(start) or name not in hub.files:
            self._refuse(404, "EntryNotFound" if path.startswith(start) else "RepoNotFound")
        elif hub.is_gated and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._refuse(401, "GatedRepo")
        else:
            content = hub.files[name]
            digest = hashlib.sha256(content).hexdigest()
            self._send(content, {"X-Repo-Commit": COMMIT, "X-Linked-Etag": f'"{digest}"',
                                 "X-Linked-Size": str(len(content)), "ETag": f'"{digest}"'},
                       has_body)  # fmt: skip

    def _listed(self) -> dict[str, Any]:
        hub = self.serves
        siblings = []
        for name, content in hub.files.items():
            lfs = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content),
                   "pointerSize": 134}  # fmt: skip
            siblings.append({"rfilename": name, "size": len(content), "blobId": "0", "lfs": lfs})
        return {"id": hub.repository, "modelId": hub.repository, "sha": COMMIT, "private": False,
                "tags": [], "downloads": 0, "likes": 0, "siblings": siblings}  # fmt: skip

    def _send(self, content: bytes, headers: Mapping[str, str], has_body: bool) -> None:
        first, code = 0, 200
        if part := self.headers.get("Range"):
            first, code = int(part.removeprefix("bytes=").partition("-")[0]), 206
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        if code == 206:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        if not has_body:
            return
        cut = self.serves.cut.pop(0) if headers and self.serves.cut else None
        self.wfile.write(content[first : None if cut is None else first + cut])
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True

    def _refuse(self, code: int, error: str) -> None:
        self.send_response(code)
        self.send_header("X-Error-Code", error)
        self.send_header("X-Error-Message", f"{error} says the hub")
        self.send_header("Content-Length", "0")
        self.end_headers()
