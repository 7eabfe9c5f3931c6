"""curl, as documentation shows it: without a content type."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import pytest

from clients.conftest import Served


def curl(served: Served, path: str, body: dict[str, Any]) -> str:
    """What curl prints."""
    if shutil.which("curl") is None:
        pytest.skip("no curl")
    command = ["curl", "-sN", "-H", f"Authorization: Bearer {served.key}"]
    command += [f"{served.url}{path}", "-d", json.dumps(body)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_streams(served: Served) -> None:
    """curl gets OpenAI's events and Ollama's lines."""
    asked = [{"role": "user", "content": "Name a colour."}]
    body = {"model": "smollm2", "messages": asked, "max_tokens": 5, "stream": True}
    events = curl(served, "/v1/chat/completions", body)
    assert events.startswith("data: {") and events.endswith("data: [DONE]\n\n")
    lines = curl(served, "/api/chat", {"model": "smollm2", "messages": asked}).splitlines()
    assert json.loads(lines[-1])["done"] is True


def test_infill_and_tokens(served: Served) -> None:
    """llama.cpp's own paths answer curl."""
    tokens = json.loads(curl(served, "/tokenize", {"content": "Hello"}))["tokens"]
    assert json.loads(curl(served, "/detokenize", {"tokens": tokens}))["content"] == "Hello"
    gap = curl(served, "/infill", {"input_prefix": "a", "input_suffix": "b"})
    assert "infilling" in json.loads(gap)["error"]["message"]
