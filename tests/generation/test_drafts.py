"""Drafts: however good or bad the guesses, a text and what its cache holds are as without."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness.guessed_texts import Oracle, decode
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama.engine.engine import Engine
from edgellama.engine.scheduling.cancellation import CancelToken
from edgellama.generation.decoding.decoding import Decoding
from edgellama.generation.results import Generation
from edgellama.generation.text_request import Request
from edgellama.quant.gguf.file import GGUFFile
from edgellama.sampling.options import SamplingOptions
from edgellama.text.tokenizer import load_tokenizer

MODEL = TinyLlama(context_length=700, sliding_window=150)
PROMPT = list(b"once upon a time there was a llama")
SAMPLING = {
    "greedy": SamplingOptions(temperature=0),
    "hot": SamplingOptions(temperature=1.5, seed=4),
    "penalties": SamplingOptions(
        temperature=0.7, seed=5, repeat_penalty=1.3, dry_multiplier=1, dry_allowed_length=2
    ),
}


@pytest.fixture(scope="module", params=[None, 150], ids=["all keys", "window"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An exact engine, where a token has the same bits in steps of any length."""
    model = replace(MODEL, sliding_window=request.param)
    path = write_tiny_llama(tmp_path_factory.mktemp("drafts") / "tiny.gguf", model)
    with GGUFFile(path) as file, Engine(file, num_threads=2, exact=True) as engine:
        yield engine, load_tokenizer(file.metadata)


@pytest.mark.parametrize("hits", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("sampling", SAMPLING.values(), ids=SAMPLING)
def test_a_draft_never_changes_a_text(engine: Any, sampling: SamplingOptions, hits: float) -> None:
    """Right, wrong and mixed drafts give the text, its end and the cache of no draft at all."""
    request = Request(PROMPT, sampling, max_tokens=300)
    expected = decode(engine, request, None)
    text = [*PROMPT, *expected[0].tokens]
    for seed in range(2):
        oracle = Oracle(text, hits, np.random.default_rng(seed))
        result, chunks, held = decode(engine, request, oracle)
        assert sum(oracle.lengths) > 100
        assert (result.text, result.tokens) == (expected[0].text, expected[0].tokens)
        assert result.finish_reason == expected[0].finish_reason
        assert (chunks, held) == expected[1:]
        figures = result.statistics
        assert figures.decoded_tokens == expected[0].statistics.decoded_tokens
        if hits == 1:
            assert len(oracle.lengths) < 0.4 * len(result.tokens)


@pytest.mark.parametrize("place", range(1, 12))
def test_a_text_ends_inside_a_draft(engine: Any, place: int) -> None:
    """Stop strings, limits and a full context end a text at the token where they would alone."""
    free = Request(PROMPT, SAMPLING["hot"], max_tokens=60)
    text = decode(engine, free, None)[0]
    stop = engine[1].decode(text.tokens[place * 3 : place * 3 + 2], continuation=True)
    limit = len(PROMPT) + place
    for request, length in (
        (replace(free, stop=[stop or "llama"]), 700),
        (replace(free, max_tokens=place), 700),
        (replace(free, max_tokens=None), limit),
    ):
        expected = decode(engine, request, None, length)
        drafter = Oracle([*PROMPT, *text.tokens], 1.0)
        found = decode(engine, request, drafter, length)
        assert found[1:] == expected[1:]
        assert found[0].finish_reason == expected[0].finish_reason
        assert found[0].context_full == expected[0].context_full


def chunks_before(made: Any, count: int, *, cancels: bool) -> tuple[Generation, int]:
    """A result, and how many tokens the cache holds, of a text that is left after ``count``."""
    text = decode(made, Request(PROMPT, SAMPLING["greedy"], max_tokens=40), None)[0].tokens
    cache, cancel = made[0].new_cache(700), CancelToken()
    request = Request(PROMPT, SAMPLING["greedy"], max_tokens=40)
    oracle = Oracle([*PROMPT, *text], 1.0)
    decoding = Decoding(*made, cache, request, cancel, oracle)
    steps: Iterator[Any] = decoding.steps()
    for _ in range(count):
        next(steps)
    if cancels:
        cancel.cancel()
        assert [chunk for chunk in steps if chunk.token is not None] == []
    else:
        steps.close()  # type: ignore[attr-defined]
    assert decoding.result().tokens == text[:count]
    return decoding.result(), cache.length


@pytest.mark.parametrize("cancels", [False, True])
def test_who_leaves_inside_a_draft_has_what_was_handed_out(engine: Any, cancels: bool) -> None:
    """Closed or cancelled after any chunk, text and cache hold what came up to there."""
    for count in range(1, 12):
        result, held = chunks_before(engine, count, cancels=cancels)
        assert result.finish_reason == "cancelled"
        assert held == len(PROMPT) + count - 1


@pytest.mark.parametrize("weight_format", ["Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q6_K", "F16"])
def test_each_of_a_few_tokens_has_the_bits_of_a_step_of_its_own(
    tmp_path: Path, weight_format: str
) -> None:
    """Where steps are not exact, 2 to 12 tokens leave the logits and keys of single steps."""
    model = TinyLlama(
        width=256, heads=4, kv_heads=2, feed_forward=512, layers=2, weight_format=weight_format
    )
    tokens = np.random.default_rng(0).integers(0, 288, 520 + 78).tolist()
    path = write_tiny_llama(tmp_path / "tiny.gguf", replace(model, context_length=700))
    with GGUFFile(path) as file, Engine(file, num_threads=2) as engine:
        alone, together = engine.new_cache(), engine.new_cache()
        for cache in (alone, together):
            engine.forward(tokens[:490], cache)
        for count in range(2, 13):
            coming = tokens[alone.length : alone.length + count]
            expected = [engine.forward([token], alone)[0] for token in coming]
            found = engine.forward(coming, together, logits="each")
            np.testing.assert_array_equal(found, np.array(expected))


def test_the_next_logits_are_those_of_single_steps(tmp_path: Path) -> None:
    """Tokens that are certain, computed together, lead to the logits of one after the other."""
    model = TinyLlama(width=256, heads=4, kv_heads=2, feed_forward=512, weight_format="Q4_0")
    tokens = np.random.default_rng(1).integers(0, 288, 60).tolist()
    with (
        GGUFFile(write_tiny_llama(tmp_path / "tiny.gguf", model)) as file,
        Engine(file, num_threads=2) as engine,
    ):
        alone, together = engine.new_cache(), engine.new_cache()
        for count in (2, 3, 7, 12):
            coming = tokens[alone.length : alone.length + count]
            expected = [engine.forward([token], alone) for token in coming][-1]
            found = engine.forward(coming, together, logits="next")
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("num_tokens", [5, 600])
def test_logits_of_so_many_tokens_at_the_end(engine: Any, num_tokens: int) -> None:
    """A number asks for the logits of so many last tokens, also across the steps of a prompt."""
    tokens = np.random.default_rng(0).integers(0, 288, num_tokens).tolist()
    runner = engine[0]
    rows = runner.forward(tokens, runner.new_cache(), logits="all")
    for count in (0, 1, 3, num_tokens - 2, num_tokens):
        found = runner.forward(tokens, runner.new_cache(), logits=count)
        np.testing.assert_array_equal(found, rows[num_tokens - count :])


def test_steps_of_several_sequences_give_each_its_own_rows(engine: Any, tmp_path: Path) -> None:
    """Sequences that want the logits of different numbers of tokens share a step."""
    runner, rng = engine[0], np.random.default_rng(1)
    texts = [rng.integers(0, 288, count).tolist() for count in (3, 1, 5, 4)]
    counts = [2, 1, 5, 0]
    works = [
        runner.work(text, runner.new_cache(), logits=count)
        for text, count in zip(texts, counts, strict=True)
    ]
    while left := [work for work in works if not work.is_over]:
        runner.scheduler.run_any(left)
    for work, text, count in zip(works, texts, counts, strict=True):
        alone = runner.forward(text, runner.new_cache(), logits="all")
        np.testing.assert_array_equal(work.result(288), alone[len(text) - count :])


def test_a_draft_keeps_the_distribution(engine: Any) -> None:
    """Over many seeds, pairs of tokens are as frequent with right and wrong drafts as without.

    Two samples of the same distribution: a chi-squared statistic of as many degrees of freedom
    exceeds this limit with a probability of 1e-6.
    """
    made, counts = engine, [dict[tuple[int, ...], int](), dict[tuple[int, ...], int]()]
    for number, table in enumerate(counts):
        for seed in range(250):
            sampling = SamplingOptions(temperature=1.2, top_k=3, seed=1000 * number + seed)
            request = Request(PROMPT[:6], sampling, max_tokens=3)
            usual = decode(made, replace(request, sampling=SAMPLING["greedy"]), None)[0].tokens
            oracle = Oracle([*PROMPT[:6], *usual], 0.8, np.random.default_rng(seed))
            tokens = decode(made, request, oracle if number else None)[0].tokens
            table[tokens[1:]] = table.get(tokens[1:], 0) + 1
    pairs = [(counts[0].get(key, 0), counts[1].get(key, 0)) for key in {*counts[0], *counts[1]}]
    statistic = sum((one - other) ** 2 / (one + other) for one, other in pairs)
    freedom = len(pairs) - 1
    assert freedom > 3
    assert statistic < freedom + 4.9 * (2 * freedom) ** 0.5 + 12
