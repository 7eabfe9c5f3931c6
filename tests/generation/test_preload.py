"""What is computed while a user types, and suggestions of how the message may go on."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from edgellama.llama import Llama
from edgellama.quant.errors import EdgellamaError, TemplateError


def test_a_preloaded_prompt_is_not_computed_again(smollm2_path: Path) -> None:
    """What was computed while the user typed is all that a reply spares, and changes no text."""
    options: Any = {"temperature": 0, "max_tokens": 8}
    question = "What is the capital of France, and why?"
    with Llama(smollm2_path, context_length=512, cache_limit=0, exact=True) as llama:
        with llama.chat("Be brief.", **options) as chat:
            expected = [chat.send(question).text, chat.send("And of Italy?").text]
        with llama.chat("Be brief.", **options) as chat:
            for typed in ("", "What is the cap", "What is the capital of Fr"):
                preloaded = chat.preload_prompt(typed).wait()
                assert (preloaded.text, preloaded.finish_reason) == ("", "length")
            reply = chat.send(question)
            assert reply.usage.cached_tokens >= preloaded.prompt_tokens - 1
            assert reply.text == expected[0]
            before = chat.messages.copy()
            preloaded = chat.preload_prompt("And of").wait()
            assert preloaded.usage.cached_tokens > reply.prompt_tokens
            assert chat.messages == before
            assert chat.send("And of Italy?").text == expected[1]


def test_a_reply_ends_the_preloading(smollm2_path: Path) -> None:
    """A prompt that is being computed by another thread does not keep a reply waiting."""
    with Llama(smollm2_path, context_length=4096) as llama, llama.chat(max_tokens=2) as chat:
        preload = chat.preload_prompt("word " * 3000)
        thread = threading.Thread(target=preload.wait)
        thread.start()
        while preload.prefill_progress[1] == 0:
            pass
        assert chat.send("Hello").finish_reason == "length"
        assert preload.result.finish_reason == "cancelled"
        thread.join(30)
        begun = chat.preload_prompt()
        chat.undo()
        assert begun.ended


def test_a_closed_chat_computes_nothing(smollm2_path: Path) -> None:
    """Preloading says that the chat is closed, as every other call does."""
    with Llama(smollm2_path, context_length=128) as llama:
        chat = llama.chat()
        chat.close()
        for call in (chat.preload_prompt, chat.complete_prompt, chat.send):
            with pytest.raises(EdgellamaError, match="this session is closed"):
                call("Hello")


def test_a_suggestion_goes_on_with_what_the_user_types(smollm2_path: Path) -> None:
    """It is the continuation of the unfinished message, and no message comes of it."""
    with Llama(smollm2_path, context_length=512) as llama, llama.chat(temperature=0) as chat:
        rest = chat.complete_prompt("What is the capital", temperature=0).wait()
        assert rest.text.startswith(" of ")
        assert len(rest.tokens) <= 16 and chat.messages == []
        with pytest.raises(TemplateError, match="empty"):
            chat.complete_prompt("  ")
