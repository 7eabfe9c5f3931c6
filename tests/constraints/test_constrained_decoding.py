"""Constrained texts are the same however they are computed: by hand, with drafts, beside others."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness.guessed_texts import Oracle, decode
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama import Llama
from edgellama.constraints.answer_form import AnswerForm, answer_form
from edgellama.constraints.compiler import ConstraintCompiler
from edgellama.engine.engine import Engine
from edgellama.generation.text_request import Request
from edgellama.quant.gguf.file import GGUFFile
from edgellama.sampling.options import SamplingOptions
from edgellama.text.tokenizer import load_tokenizer

PROMPT = list(b"once upon a time there was a llama")
GREEDY = SamplingOptions(temperature=0)
HOT = SamplingOptions(temperature=1.5, seed=4)
ITEM = {
    "type": "object",
    "properties": {
        "hello world": {"type": "string", "maxLength": 6},
        "kind": {"enum": ["hello", "held", 12]},
        "on": {"type": "boolean"},
    },
    "required": ["hello world", "kind", "on"],
    "additionalProperties": False,
}
WORDS = {"type": "string", "minLength": 9, "maxLength": 30}
LIST = {"type": "array", "items": ITEM, "minItems": 3, "maxItems": 3}
FORMS: dict[str, dict[str, Any]] = {
    "objects": {"schema": LIST},
    "constant": {"schema": {"const": ["hello", {"world": [1, 2, 3]}]}},
    "regex": {"regex": "(hello |in the world[,.] ){4,6}end"},
    "grammar": {"grammar": 'root ::= ("- " [a-c]{2} "\\n"){5} "hello"'},
    "letters": {"regex": "[a-d ]{40,80}[.]"},
    "strings": {"schema": {"type": "array", "items": WORDS, "minItems": 3, "maxItems": 4}},
    "choices": {"choices": ["hello world", "hello there", "in"]},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, which writes nonsense unless it is constrained."""
    path = tmp_path_factory.mktemp("constrained") / "tiny.gguf"
    return write_tiny_llama(path, TinyLlama(context_length=700))


@pytest.fixture(scope="module")
def made(model: Path) -> Iterator[Any]:
    """An engine where a token has the same bits in steps of any length, and its tokenizer."""
    with GGUFFile(model) as file, Engine(file, num_threads=2, exact=True) as engine:
        yield engine, load_tokenizer(file.metadata)


def form_of(name: str) -> AnswerForm:
    """One of FORMS."""
    form = answer_form(FORMS[name])
    assert form is not None
    return form


def naive_tokens(made: Any, form: AnswerForm, count: int) -> list[int]:
    """The greedy text, each token by logits that are computed from the start."""
    engine, tokenizer = made
    constraint = tokenizer.derived(ConstraintCompiler).constraint(form, continuation=True)
    tokens: list[int] = []
    while len(tokens) < count and not constraint.is_finished:
        forced = constraint.forced()
        if forced:
            token = forced[0]
        else:
            cache = engine.new_cache(700)
            logits = engine.forward(PROMPT + tokens, cache)[0].copy()
            cache.close()
            logits[~constraint.mask()] = -np.inf
            token = int(logits.argmax())
        if token in tokenizer.special.end_of_generation:
            break
        constraint.advance(token)
        tokens.append(token)
    return tokens


@pytest.mark.parametrize("name", ["objects", "constant", "regex", "grammar", "choices"])
def test_greedy_texts_are_those_of_a_naive_search(made: Any, name: str) -> None:
    """Forced tokens and masks give what every token by itself gives, in fewer steps."""
    form = form_of(name)
    result, chunks, held = decode(made, Request(PROMPT, GREEDY, answer=form), None)
    assert list(result.tokens) == naive_tokens(made, form, 400)
    assert chunks == list(result.tokens)
    assert held == [*PROMPT, *result.tokens][: len(held)]
    assert result.finish_reason == "stop"
    assert result.statistics.decoded_tokens < len(result.tokens)
    if "schema" in FORMS[name]:
        assert result.parsed == json.loads(result.text)


@pytest.mark.parametrize("hits", [0.4, 1.0])
@pytest.mark.parametrize("sampling", [GREEDY, HOT], ids=["greedy", "hot"])
@pytest.mark.parametrize("name", ["objects", "letters", "strings"])
def test_drafts_change_nothing(
    made: Any, name: str, sampling: SamplingOptions, hits: float
) -> None:
    """With right and wrong drafts the text, its chunks and the cache are those without."""
    request = Request(PROMPT, sampling, answer=form_of(name), max_tokens=150)
    expected = decode(made, request, None)
    drafter = Oracle([*PROMPT, *expected[0].tokens], hits)
    found = decode(made, request, drafter)
    assert (found[0].text, found[0].parsed) == (expected[0].text, expected[0].parsed)
    assert found[1:] == expected[1:]
    assert sum(drafter.lengths) > 5


@pytest.mark.parametrize("limit", range(1, 14))
def test_a_limit_ends_a_text_anywhere(made: Any, limit: int) -> None:
    """max_tokens and a full context cut a text at their token, forced or not."""
    whole = decode(made, Request(PROMPT, HOT, answer=form_of("objects")), None)[0]
    cut = decode(made, Request(PROMPT, HOT, answer=form_of("objects"), max_tokens=limit), None)[0]
    assert (cut.tokens, cut.finish_reason) == (whole.tokens[:limit], "length")
    full = Request(PROMPT, HOT, answer=form_of("objects"))
    ended, _, held = decode(made, full, None, len(PROMPT) + limit)
    assert ended.finish_reason == "context"
    assert ended.tokens == whole.tokens[: len(ended.tokens)]
    assert len(held) <= len(PROMPT) + limit


def test_many_threads_and_a_batch_give_what_each_gives_alone(model: Path) -> None:
    """Texts of different forms, in threads and in a batch, are those that each is alone."""
    jobs = [{**FORMS[name], "seed": seed} for seed in range(3) for name in FORMS]
    with Llama(model, context_length=400, num_threads=2, exact=True) as llama:
        alone = [llama.generate(PROMPT, max_tokens=150, **job) for job in jobs]
        texts: dict[int, tuple[str, Any]] = {}

        def run(number: int) -> None:
            with llama.session() as session:
                for _ in range(2):
                    result = session.generate(PROMPT, max_tokens=150, **jobs[number])
                    texts[number] = result.text, result.parsed

        threads = [threading.Thread(target=run, args=(number,)) for number in range(len(jobs))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        prompts: list[Any] = [{"prompt": PROMPT, **job} for job in jobs]
        batch = {r.index: r for r in llama.generate_batch(prompts, max_tokens=150, width=8)}
    expected = {number: (result.text, result.parsed) for number, result in enumerate(alone)}
    assert texts == expected
    assert {number: (r.text, r.parsed) for number, r in batch.items()} == expected


def test_a_text_cancelled_inside_what_is_certain(model: Path) -> None:
    """Leaving a stream between two forced tokens frees the session."""
    with Llama(model, context_length=400, num_threads=2) as llama, llama.session() as session:
        with session.stream(PROMPT, schema=LIST) as stream:
            first = [next(stream) for _ in range(2)]
        assert stream.result.finish_reason == "cancelled"
        assert stream.result.tokens[:2] == tuple(chunk.token for chunk in first)
        assert session.generate(PROMPT, choices=["in"]).parsed == "in"
