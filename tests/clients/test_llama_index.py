"""LlamaIndex's OpenAILike, which completes plain prompts by default."""

from __future__ import annotations

from typing import Any

import pytest

from clients.conftest import Served


@pytest.mark.parametrize("is_chat", [False, True])
def test_open_ai_like(served: Served, is_chat: bool) -> None:
    """complete, chat and both as streams give texts."""
    module = pytest.importorskip("llama_index.llms.openai_like")
    core = pytest.importorskip("llama_index.core.llms")
    options: Any = {"model": "smollm2", "api_base": served.openai_url, "api_key": served.key}
    model = module.OpenAILike(
        **options, is_chat_model=is_chat, temperature=0, max_tokens=12, context_window=2048
    )
    assert model.complete("Once upon a time").text
    assert [piece.delta for piece in model.stream_complete("Once upon a time")]
    said = [core.ChatMessage(role="user", content="Name a colour.")]
    whole = model.chat(said).message.content
    assert "".join(piece.delta or "" for piece in model.stream_chat(said)) == whole != ""
