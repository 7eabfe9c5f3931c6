"""Options of a text in any combination: the same text however it is computed, and its own laws."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama import EdgellamaError, Generation, Llama

pytest.importorskip("llguidance")

VOCAB_SIZE, CONTEXT_LENGTH = 288, 200
TOKENS = st.integers(0, VOCAB_SIZE - 1)
TEXTS = st.lists(st.text("abx1 \"{'", min_size=1, max_size=2), min_size=1, max_size=2)
ITEM = {
    "type": "object",
    "properties": {"a": {"type": "integer", "maximum": 99}, "b": {"enum": ["x", "yy"]}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
FORMS = [
    {},
    {"schema": ITEM},
    {"json": True},
    {"regex": "(abc)+"},
    {"regex": "[ab ]{0,20}"},
    {"choices": ["abc", "abd", "b c"]},
]
OPTIONS = st.fixed_dictionaries(
    {"seed": st.integers(0, 99), "max_tokens": st.sampled_from([0, 1, 2, 5, 12, 30])},
    optional={
        "temperature": st.sampled_from([0, 0.5, 3, 1e9]),
        "top_k": st.sampled_from([0, 1, 5]),
        "typical_p": st.just(0.5),
        "xtc_probability": st.just(0.5),
        "mirostat": st.sampled_from([1, 2]),
        "dynatemp_range": st.just(0.5),
        "repeat_penalty": st.just(1.3),
        "dry_multiplier": st.just(0.8),
        "penalize_prompt": st.just(False),
        "min_tokens": st.sampled_from([1, 3, 8]),
        "ignore_eos": st.just(True),
        "logit_bias": st.dictionaries(TOKENS, st.sampled_from([5.0, -3.0, False]), max_size=2),
        "stop": TEXTS,
        "banned": TEXTS | st.just(["\ufffd"]),
        "stop_tokens": st.lists(TOKENS, max_size=3),
        "logprobs": st.sampled_from([0, 2]),
        "prompt_logprobs": st.sampled_from([0, 1]),
        "prediction": st.text("abx1", min_size=1, max_size=8),
    },
)
PROMPTS = st.lists(TOKENS, min_size=1, max_size=40) | st.lists(TOKENS, min_size=3, max_size=6).map(
    lambda tokens: tokens * 12
)
CUT_CHARACTER = example(
    prompt=[0x66], options={"seed": 13, "max_tokens": 2, "banned": ["\ufffd"]}, form={}
)
"""The text is cut within a character, which may not be shown as one that is banned."""
STOPPED_AT_ONCE = example(
    prompt=[7, 255], options={"seed": 1, "max_tokens": 12, "stop": ["a"]}, form={"schema": ITEM}
)
"""What must follow the prompt has a stop string in it."""


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Llama]:
    """A tiny model whose tokens have the same bits in any step."""
    path: Path = tmp_path_factory.mktemp("options") / "tiny.gguf"
    write_tiny_llama(path, TinyLlama(vocab_size=VOCAB_SIZE))
    with Llama(path, context_length=CONTEXT_LENGTH, exact=True) as model:
        yield model


def told(call: Callable[[], Generation]) -> object:
    """All that a text says of itself, without its figures; or the error's words."""
    try:
        result = call()
    except EdgellamaError as error:
        return str(error).removeprefix("prompt 0: ")
    parts = result.text, result.tokens, result.finish_reason, result.matched_stop
    return *parts, result.logprobs, result.prompt_logprobs, result.parsed


@given(PROMPTS, OPTIONS, st.sampled_from(FORMS))
@STOPPED_AT_ONCE
def test_a_text_is_the_same_however_it_is_computed(
    llama: Llama, prompt: list[int], options: dict[str, Any], form: dict[str, Any]
) -> None:
    """Guessed ahead, in a batch, in an event loop, in a session that knows it, and in its fork."""
    options = options | form
    expected = told(lambda: llama.generate(prompt, speculation=False, **options))
    with llama.session() as session:
        for call in (
            lambda: llama.generate(prompt, speculation=True, **options),
            lambda: next(llama.generate_batch([prompt], **options)),
            lambda: asyncio.run(llama.generate_async(prompt, **options)),
            lambda: session.generate(prompt, **options),
            lambda: session.fork().generate(prompt, **options),
        ):
            assert told(call) == expected


@given(PROMPTS, OPTIONS, st.sampled_from(FORMS))
@STOPPED_AT_ONCE
@CUT_CHARACTER
def test_chunks_are_the_text_and_the_text_keeps_its_rules(
    llama: Llama, prompt: list[int], options: dict[str, Any], form: dict[str, Any]
) -> None:
    """Texts, tokens and log-probabilities of chunks join to the result's; nothing banned is in it.

    What its tokens say begins with its text, and goes on behind it within the last one alone.
    """
    options = options | form
    try:
        stream = llama.stream(prompt, **options)
        chunks = list(stream)
    except EdgellamaError:
        return  # no token is left to choose, or what is banned is all that may come
    result, own = stream.result, [chunk for chunk in chunks if chunk.token is not None]
    assert "".join(chunk.text for chunk in chunks) == result.text
    assert tuple(chunk.token for chunk in own) == result.tokens
    assert len(result.tokens) <= options["max_tokens"]
    if "logprobs" in options:
        assert tuple(chunk.logprobs for chunk in own) == result.logprobs
    if "prompt_logprobs" in options:
        assert len(result.prompt_logprobs or ()) == len(prompt)
    assert not any(banned in result.text for banned in options.get("banned", ()))
    if "min_tokens" not in options:
        assert not any(stop in result.text for stop in options.get("stop", ()))
    decode = llama.tokenizer.decode
    assert decode(result.tokens, continuation=True).startswith(result.text.rstrip("\ufffd"))
    if isinstance(result.matched_stop, str):
        before = decode(result.tokens[:-1], continuation=True)
        assert len(before) < len(result.text) + len(result.matched_stop)
