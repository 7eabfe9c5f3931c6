"""Adapters for users: of sessions, single texts, chats and batches, changed without a load."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from reference.adapter_files import random_gguf_factors, write_gguf_adapter
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama import Adapter, EdgellamaError, InvalidOptionError, Llama, SessionFileError

MODEL = TinyLlama()
PROMPT = "once upon a time there was a llama that could not sleep " * 4
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model and two adapters of it."""
    folder = tmp_path_factory.mktemp("adapters")
    write_tiny_llama(folder / "tiny.gguf", MODEL)
    for seed, name in enumerate(("one", "two")):
        write_gguf_adapter(folder / f"{name}.gguf", random_gguf_factors(MODEL, 4, seed))
    return folder


@pytest.fixture
def llama(files: Path) -> Iterator[Llama]:
    """An exact model with both adapters."""
    with Llama(files / "tiny.gguf", num_threads=2, exact=True) as llama:
        for name in ("one", "two"):
            llama.load_adapter(files / f"{name}.gguf")
        yield llama


def test_adapters_of_a_session(llama: Llama) -> None:
    """They hold for all its texts, and others may take their place at any time."""
    plain = llama.generate(PROMPT, **GREEDY).tokens
    one = llama.generate(PROMPT, adapters={"one": 1.0}, **GREEDY).tokens
    both = llama.generate(PROMPT, adapters={"one": 0.5, "two": -1.0}, **GREEDY).tokens
    assert len({plain, one, both}) == 3
    with llama.session(adapters={llama.adapters["one"]: 1.0}) as session:
        assert session.generate(PROMPT, **GREEDY).tokens == one
        assert session.generate(PROMPT, **GREEDY).tokens == one
        session.adapters = {"one": 0.5, "two": -1.0}
        assert session.tokens == ()
        assert session.generate(PROMPT, **GREEDY).tokens == both
        assert {adapter.name: scale for adapter, scale in session.adapters.items()} == {
            "one": 0.5,
            "two": -1.0,
        }
        session.adapters = {}
        assert session.generate(PROMPT, **GREEDY).tokens == plain


def test_adapters_of_one_text(llama: Llama) -> None:
    """A text may have others than its session's, and computes anew what they change."""
    with llama.session(adapters={"one": 1.0}) as session:
        first = session.generate(PROMPT, **GREEDY)
        other = session.generate(PROMPT, adapters={"two": 1.0}, **GREEDY)
        assert other.tokens == llama.generate(PROMPT, adapters={"two": 1.0}, **GREEDY).tokens
        none = session.generate(PROMPT, adapters={}, **GREEDY)
        assert none.tokens == llama.generate(PROMPT, **GREEDY).tokens
        again = session.generate(PROMPT, **GREEDY)
        assert again.tokens == first.tokens
        found = again.prompt_tokens - again.statistics.prefilled_tokens
        assert found == first.prompt_tokens // 128 * 128 > 0
        same = session.generate(PROMPT, adapters={"one": 1}, **GREEDY)
        assert same.statistics.prefilled_tokens == 1


def test_forks_keep_adapters(llama: Llama) -> None:
    """A fork goes on with the same adapters, and may take others."""
    with llama.session(adapters={"one": 1.0}) as session:
        session.generate(PROMPT, **GREEDY)
        with session.fork() as fork:
            assert fork.adapters == session.adapters
            result = fork.generate(PROMPT, **GREEDY)
            assert result.statistics.prefilled_tokens == 1
            fork.adapters = None
            assert session.tokens and not fork.tokens


def test_adapters_of_a_batch(llama: Llama) -> None:
    """Prompts with different adapters, computed together, give the texts of each alone."""
    chosen: list[dict[str, float]] = [{}, {"one": 1.0}, {"one": 0.5}, {"two": 1.0, "one": 1.0}]
    alone = [llama.generate(PROMPT, adapters=scales, **GREEDY).tokens for scales in chosen]
    prompts = [{"prompt": PROMPT, "adapters": scales} for scales in chosen]
    results = list(llama.generate_batch(prompts, **GREEDY))
    assert {result.index: result.tokens for result in results} == dict(enumerate(alone))
    results = list(llama.generate_batch([PROMPT], adapters={"one": 1.0}, **GREEDY))
    assert [result.tokens for result in results] == [alone[1]]


def test_adapters_of_a_chat(llama: Llama) -> None:
    """A chat has adapters for all replies, a reply others."""
    replies = []
    for adapters in ({}, {"one": 1.0}, {"two": 1.0}):
        with llama.chat(adapters=adapters, **GREEDY) as chat:
            replies.append(chat.send("hello").text)
    assert len(set(replies)) == 3
    with llama.chat(adapters={"one": 1.0}, **GREEDY) as chat:
        assert chat.send("hello", adapters={"two": 1.0}).text == replies[2]
        assert chat.regenerate().wait().text == replies[1]
        with chat.fork() as fork:
            assert fork.regenerate().wait().text == replies[1]


def test_saved_sessions_know_their_adapters(llama: Llama, tmp_path: Path) -> None:
    """A saved session goes on with the same adapters and scales, and with no others."""
    path = tmp_path / "story.session"
    with llama.session(adapters={"one": 1.0}) as session:
        tokens = session.generate(PROMPT, **GREEDY).tokens
        session.save(path)
    with llama.load_session(path, adapters={"one": 1.0}) as session:
        result = session.generate(PROMPT, **GREEDY)
        assert (result.tokens, result.statistics.prefilled_tokens) == (tokens, 1)
    for other in (None, {"one": 0.5}, {"two": 1.0}):
        with pytest.raises(SessionFileError, match="adapters"):
            llama.load_session(path, adapters=other)


def test_what_is_refused(llama: Llama, files: Path) -> None:
    """Adapters that are not loaded, taken names and scales that are no numbers are told at once."""
    with pytest.raises(InvalidOptionError, match=r"adapter 'three' is not loaded.*'one', 'two'"):
        llama.session(adapters={"three": 1.0})
    with pytest.raises(InvalidOptionError, match="adapter 'three' is not loaded"):
        llama.stream(PROMPT, adapters={"three": 1.0})
    with pytest.raises(InvalidOptionError, match="adapter 'three' is not loaded"):
        llama.chat(adapters={"three": 1.0})
    with pytest.raises(InvalidOptionError, match="'one' is loaded already"):
        llama.load_adapter(files / "one.gguf")
    with Llama(files / "tiny.gguf", num_threads=1) as other:
        foreign = other.load_adapter(files / "one.gguf")
        with pytest.raises(InvalidOptionError, match="not loaded for this model"):
            llama.session(adapters={foreign: 1.0})
    with llama.session() as session, session.stream(PROMPT, **GREEDY) as stream:
        next(stream)
        with pytest.raises(EdgellamaError, match="in use"):
            session.adapters = {"one": 1.0}


def test_an_unloaded_adapter_serves_who_has_it(llama: Llama, files: Path) -> None:
    """Its name is free at once, and a session that has it goes on."""
    with llama.session(adapters={"one": 1.0}) as session:
        tokens = session.generate(PROMPT, **GREEDY).tokens
        llama.unload_adapter("one")
        assert list(llama.adapters) == ["two"]
        gc.collect()
        session.adapters = dict(session.adapters) and {llama.adapters["two"]: 0.0}
        other = llama.load_adapter(files / "one.gguf")
        assert isinstance(other, Adapter)
        session.adapters = {other: 1.0}
        assert session.generate(PROMPT, **GREEDY).tokens == tokens


def test_closing_the_model_ends_adapters(files: Path) -> None:
    """After close() nothing is loaded any more, and nothing can be."""
    llama = Llama(files / "tiny.gguf", num_threads=1)
    session = llama.session(adapters={llama.load_adapter(files / "one.gguf"): 1.0})
    session.generate(PROMPT, **GREEDY)
    llama.close()
    with pytest.raises(EdgellamaError, match="closed"):
        llama.load_adapter(files / "two.gguf")
    with pytest.raises(EdgellamaError, match="closed"):
        session.generate(PROMPT)
