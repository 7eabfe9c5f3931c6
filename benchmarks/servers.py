"""Servers in processes of their own, ours and llama-cpp-python's, and their clients.

``serve`` measures them.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

CONTEXT = 2048


@contextmanager
def our_server(model: Path, *arguments: str) -> Iterator[tuple[str, int]]:
    """The URL and the process of a server of ours."""
    command = [sys.executable, "-m", "edgellama", "serve", str(model), "--only", "--port", "0"]
    command += ["--api-key", "k", "--context", str(CONTEXT), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["url"], process.pid
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def peer_server(interpreter: str, model: Path, num_threads: int) -> Iterator[str]:
    """The URL of llama-cpp-python's server."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [interpreter, "-m", "llama_cpp.server", "--model", str(model), "--port", str(port)]
    command += ["--n_ctx", str(CONTEXT), "--n_threads", str(num_threads), "--verbose", "False"]
    command += ["--interrupt_requests", "False"]
    with open(os.devnull, "w") as nowhere:
        process = subprocess.Popen(command, stdout=nowhere, stderr=nowhere)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                httpx.get(f"{url}/v1/models", timeout=1)
                break
            except httpx.TransportError:
                if process.poll() is not None:
                    raise SystemExit(
                        f"the peer's server did not start; see: {interpreter} -m llama_cpp.server"
                        " --help (pip install 'llama-cpp-python[server]')"
                    ) from None
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(60)


def client(url: str) -> httpx.AsyncClient:
    """A client of any number of connections."""
    limits = httpx.Limits(max_connections=None)
    headers = {"authorization": "Bearer k"}
    return httpx.AsyncClient(
        base_url=url, headers=headers, limits=limits, timeout=600, verify=False
    )
