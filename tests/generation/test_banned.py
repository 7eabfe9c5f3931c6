"""Banned strings: never in a text, however it is computed, and never shown and taken back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness.guessed_texts import Oracle, decode
from hypothesis import example, given, settings
from hypothesis import strategies as st
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama import Llama
from edgellama.engine.engine import Engine
from edgellama.generation.decoding.held_tokens import HeldTokens
from edgellama.generation.text_request import Request
from edgellama.quant.errors import InvalidOptionError
from edgellama.quant.gguf.file import GGUFFile
from edgellama.sampling.options import SamplingOptions
from edgellama.text.tokenizer import StreamingDetokenizer, Tokenizer, load_tokenizer

PROMPT = list(b"once upon a time there was a llama")
GREEDY = SamplingOptions(temperature=0)
HOT = SamplingOptions(temperature=1.5, seed=4)


@pytest.fixture(scope="module", params=[None, 150], ids=["all keys", "window"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An exact engine, where a token has the same bits in steps of any length."""
    model = TinyLlama(context_length=700, sliding_window=request.param)
    path = write_tiny_llama(tmp_path_factory.mktemp("banned") / "tiny.gguf", model)
    with GGUFFile(path) as file, Engine(file, num_threads=2, exact=True) as engine:
        yield engine, load_tokenizer(file.metadata)


def naive_tokens(made: Any, banned: Sequence[str], count: int) -> list[int]:
    """A greedy text that goes back by hand, computed from the start for every token."""
    engine, tokenizer = made
    tokens: list[int] = []
    refused: dict[int, set[int]] = {}
    while len(tokens) < count:
        cache = engine.new_cache(700)
        logits = engine.forward(PROMPT + tokens, cache)[0].copy()
        cache.close()
        logits[list(refused.get(len(tokens), ()))] = -np.inf
        token = int(logits.argmax())
        if token in tokenizer.special.end_of_generation:
            break
        tokens.append(token)
        text = tokenizer.decode(tokens, continuation=True)
        if (start := min((text.find(b) for b in banned if b in text), default=None)) is None:
            continue
        place = next(
            n
            for n in range(len(tokens))
            if len(tokenizer.decode(tokens[: n + 1], continuation=True)) > start
        )
        refused = {at: kept for at, kept in refused.items() if at <= place}
        refused.setdefault(place, set()).add(tokens[place])
        del tokens[place:]
    return tokens


def banned_parts(text: str, seed: int) -> list[str]:
    """Parts of a text, short and long, that would have come."""
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, len(text) - 6, 6)
    parts = [text[start : start + int(rng.integers(1, 6))] for start in starts]
    return [part for part in parts if "\ufffd" not in part]


@pytest.mark.parametrize("seed", range(4))
def test_a_text_goes_back_and_takes_another_way(engine: Any, seed: int) -> None:
    """A greedy text is that of a naive search; nothing banned is in it or in a stream."""
    free = decode(engine, Request(PROMPT, GREEDY, max_tokens=40), None)[0].text
    banned = banned_parts(free, seed)
    result, chunks, held = decode(
        engine, Request(PROMPT, GREEDY, max_tokens=40, banned=banned), None
    )
    assert list(result.tokens) == naive_tokens(engine, banned, 40)
    assert not any(text in result.text for text in banned)
    assert [token for token in chunks if token is not None] == list(result.tokens)
    assert held == [*PROMPT, *result.tokens][: len(held)]
    assert len(held) >= len(PROMPT) + len(result.tokens) - 1


@pytest.mark.parametrize("sampling", [GREEDY, HOT], ids=["greedy", "hot"])
@pytest.mark.parametrize("hits", [0.5, 1.0])
def test_drafts_change_nothing(engine: Any, sampling: SamplingOptions, hits: float) -> None:
    """With drafts, right and wrong ones, the text is that of single steps; stop strings hold."""
    free = decode(engine, Request(PROMPT, sampling, max_tokens=200), None)[0]
    banned = [*banned_parts(free.text, 0), *banned_parts(free.text, 1)]
    request = Request(PROMPT, sampling, max_tokens=200, banned=banned)
    expected = decode(engine, request, None)
    assert not any(text in expected[0].text for text in banned)
    stop = expected[0].text[100:103]
    for ended in (request, replace(request, stop=[stop])):
        alone = decode(engine, ended, None)
        drafter = Oracle([*PROMPT, *expected[0].tokens], hits)
        found = decode(engine, ended, drafter)
        assert (found[0].text, found[0].tokens, found[1]) == (
            *(alone[0].text, alone[0].tokens),
            alone[1],
        )
        assert sum(drafter.lengths) > 5
    assert alone[0].matched_stop == stop
    assert stop not in alone[0].text
    assert engine[1].decode(alone[0].tokens, continuation=True).startswith(alone[0].text)


@settings(deadline=None, max_examples=100)
@example(["a", "a", " ", " "], ["a "])
@given(
    st.lists(st.sampled_from("aab é€"), max_size=30),
    st.lists(st.text("ab é€", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_what_is_held_is_what_may_become_banned(letters: list[str], banned: list[str]) -> None:
    """Byte by byte: what is let go never has to come back, and nothing is held for nothing."""
    tokenizer = byte_tokenizer()
    held = HeldTokens(StreamingDetokenizer(tokenizer, continuation=True), banned)
    tokens: list[int] = []
    shown: list[int] = []
    for token in "".join(letters).encode():
        certain, count = held.add(token)
        tokens.append(token)
        assert not (certain and count)
        shown += [one.token for one in certain]
        if count:
            del tokens[len(tokens) - count :]
        text = bytes(tokens).decode("utf-8", "ignore")
        assert shown == tokens[: len(shown)]
        assert not any(one in text for one in banned)
        waits = bytes(tokens).decode("utf-8", "surrogateescape") != text
        begins = (text.endswith(one[:n]) for one in banned for n in range(1, len(one)))
        assert len(shown) == len(tokens) or waits or any(begins)
    shown += [one.token for one in held.release()]
    assert shown == tokens


def byte_tokenizer() -> Tokenizer:
    """A token for every byte."""
    from edgellama.text.tokenizer.byte_pair_merge import byte_symbols

    return load_tokenizer(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.tokens": [symbol.decode() for symbol in byte_symbols()],
            "tokenizer.ggml.token_type": [1] * 256,
            "tokenizer.ggml.merges": [],
        }
    )


def test_banned_phrases_of_a_real_model(smollm2_path: Path) -> None:
    """In streams, chats and batches phrases that would come do not, and the rest reads on."""
    prompt: Any = "The capital of France is"
    options: Any = {"temperature": 0, "max_tokens": 20}
    with Llama(smollm2_path, context_length=256) as llama:
        free = llama.generate(prompt, **options)
        assert free.text.startswith(" Paris.\n\nThe United States")
        banned = ["Paris", "The United States", "capital of"]
        stream = llama.stream(prompt, banned=banned, **options)
        texts = [chunk.text for chunk in stream]
        assert "".join(texts) == stream.result.text
        assert len(stream.result.tokens) == 20
        assert not any(text in stream.result.text for text in banned)
        batch = list(llama.generate_batch([prompt] * 2, banned=banned, **options))
        assert {result.text for result in batch} == {stream.result.text}
        with llama.chat(banned=["Hello", "Hi"], **options) as chat:
            reply = chat.send("Say hello.")
            assert not any(text in reply.text for text in ("Hello", "Hi"))
            assert chat.messages[-1]["content"] == reply.text
        with pytest.raises(InvalidOptionError, match=r"banned is \['']; allowed"):
            llama.generate(prompt, banned=[""])
