"""A server and the system's limit of open files: raised where it may be, and kept to where not."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

resource = pytest.importorskip("resource")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's own figures")


@contextlib.contextmanager
def served_with(model: Path, soft: int, hard: int) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server that begins with these limits, and its URL."""
    command = [sys.executable, "-m", "edgellama", "serve", str(model), "--only", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--api-key", "k"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)),
    )
    try:
        assert process.stdout is not None
        yield process, json.loads(process.stdout.readline())["url"]
    finally:
        process.terminate()
        process.communicate()


def test_a_low_limit_is_raised(tiny_path: Path) -> None:
    """As far as 1024 connections need it; nothing is said of it."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with served_with(tiny_path, 256, most) as (process, _):
        limits = Path(f"/proc/{process.pid}/limits").read_text().splitlines()
        (line,) = [line for line in limits if line.startswith("Max open files")]
        assert int(line.split()[3]) >= 1024 + 256
        process.terminate()
        assert "connections" not in process.communicate()[1]


def test_where_it_cannot_be_raised_the_server_outlasts_a_crowd(tiny_path: Path) -> None:
    """Those that there is no file for are told in a line, not in a traceback for each."""
    with served_with(tiny_path, 96, 96) as (process, url):
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        with contextlib.ExitStack() as stack:
            for _ in range(150):
                crowd = stack.enter_context(socket.socket())
                crowd.settimeout(10)
                crowd.connect(address)
        headers, asked = {"authorization": "Bearer k"}, {"prompt": "a", "max_tokens": 1}
        for _ in range(100):
            with contextlib.suppress(httpx.TransportError):
                answer = httpx.post(f"{url}/v1/completions", headers=headers, json=asked)
                if answer.status_code == 200:
                    break
        assert answer.status_code == 200
        process.terminate()
        told = process.communicate()[1]
        assert "24 connections are served at once" in told
        assert len(told.splitlines()) <= 4 and "Traceback" not in told
