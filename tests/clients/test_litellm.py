"""litellm, by each of the three protocols."""

from __future__ import annotations

from typing import Any

import pytest

from clients.conftest import Served

ASKED: Any = [{"role": "user", "content": "Name a colour."}]


@pytest.mark.parametrize("provider", ["openai", "ollama_chat", "anthropic"])
def test_completion(served: Served, provider: str) -> None:
    """Whole and in pieces give the same text."""
    litellm = pytest.importorskip("litellm")
    base = served.openai_url if provider == "openai" else served.url
    options: Any = {"model": f"{provider}/smollm2", "messages": ASKED, "api_base": base}
    options |= {"api_key": served.key, "temperature": 0, "max_tokens": 12}
    whole = litellm.completion(**options).choices[0].message.content
    pieces = litellm.completion(**options, stream=True)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == whole != ""


def test_embedding(served: Served) -> None:
    """litellm gets vectors over OpenAI's protocol."""
    litellm = pytest.importorskip("litellm")
    found = litellm.embedding(
        "openai/smollm2", ["A cat."], api_base=served.openai_url, api_key=served.key
    )
    assert len(found.data[0]["embedding"]) == 576
