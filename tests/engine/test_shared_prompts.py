"""Texts that begin alike: what was computed is found again, forks go on apart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama import EdgellamaError, InvalidOptionError, Llama

SHARED = "s" * 260


@pytest.fixture
def llama(tmp_path: Path) -> Iterator[Llama]:
    """An exact model that keeps pages."""
    path = write_tiny_llama(tmp_path / "tiny.gguf", TinyLlama(context_length=1024))
    with Llama(path, num_threads=2, exact=True, cache_limit=1 << 28) as llama:
        yield llama


def test_a_beginning_is_found_by_other_sessions(llama: Llama) -> None:
    """A second text with the same beginning computes the rest alone, and is the same text."""
    first = llama.generate(SHARED + "a", max_tokens=10, temperature=0)
    again = llama.generate(SHARED + "a", max_tokens=10, temperature=0)
    assert first.statistics.prefilled_tokens > 256
    assert again.statistics.prefilled_tokens < 10
    assert again.text == first.text
    assert llama.cached_bytes > 0
    llama.cache_limit = 0
    assert llama.cached_bytes == 0
    once_more = llama.generate(SHARED + "a", max_tokens=10, temperature=0)
    assert once_more.statistics.prefilled_tokens == first.statistics.prefilled_tokens
    assert once_more.text == first.text


def test_forks_go_on_apart(llama: Llama) -> None:
    """Forks give the texts that fresh sessions give, and leave the first one as it was."""
    with llama.session() as session:
        session.generate(SHARED, max_tokens=5, temperature=0)
        tokens = session.tokens
        forks = [session.fork() for _ in range(3)]
        for number, fork in enumerate(forks):
            assert fork.tokens == tokens
            prompt = SHARED + "abc"[number]
            text = fork.generate(prompt, max_tokens=8, temperature=0).text
            assert text == llama.generate(prompt, max_tokens=8, temperature=0).text
        assert session.tokens == tokens
    with pytest.raises(EdgellamaError, match="closed"):
        session.fork()
    llama.close()
    for fork in forks:
        with pytest.raises(EdgellamaError, match="closed"):
            fork.generate("a")


def test_forks_of_conversations(llama: Llama) -> None:
    """A fork has the same messages and goes on by itself."""
    with llama.chat("Be brief.", max_tokens=6, temperature=0) as chat:
        chat.send("Hello")
        fork = chat.fork()
        assert fork.messages == chat.messages
        assert fork.send("And now?").text == chat.send("And now?").text
        fork.send("More")
        assert len(fork.messages) == len(chat.messages) + 2


def test_limits_out_of_range(tmp_path: Path) -> None:
    """A negative limit is refused before anything is loaded."""
    with pytest.raises(InvalidOptionError, match="cache_limit is -1"):
        Llama(tmp_path / "none.gguf", cache_limit=-1)
