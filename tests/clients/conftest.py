"""The real model, served by a process, for clients of other projects."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

KEY = "sk-clients"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here is for ``python -m pytest -m clients``."""
    for item in items:
        if "clients" in item.path.parts:
            item.add_marker(pytest.mark.clients)


@dataclass(frozen=True)
class Served:
    """Where the model is served."""

    url: str
    key: str = KEY
    model: str = "smollm2"

    @property
    def openai_url(self) -> str:
        """The base of OpenAI's paths."""
        return f"{self.url}/v1"


@pytest.fixture(scope="session")
def served() -> Iterator[Served]:
    """A server of the starter model with a key."""
    command = [sys.executable, "-m", "edgellama", "serve", "smollm2", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--api-key", KEY, "--context", "2048", "--allow-manage"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield Served(json.loads(process.stdout.readline())["url"])
    finally:
        process.terminate()
        assert process.wait(60) == 0
