"""Adapters in the engine: as if merged into the weights, for each sequence its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness.kernels import formats
from reference.adapter_files import (
    EMBEDDING,
    Factors,
    added_to,
    random_gguf_factors,
    write_gguf_adapter,
)
from reference.numpy_llama import NumpyLlama
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama.engine.engine import Engine
from edgellama.engine.pages.kv_cache import KVCache
from edgellama.engine.running.machinery import MAX_PROGRAMS
from edgellama.engine.scheduling.work import Work
from edgellama.engine.weights.adapter import Adapter
from edgellama.engine.weights.adapter_set import NO_ADAPTERS
from edgellama.quant.errors import InvalidOptionError
from edgellama.quant.formats import QUANTIZED_FORMATS
from edgellama.quant.gguf.file import GGUFFile

MODEL = TinyLlama(width=64, heads=4, kv_heads=2, feed_forward=96, tied=False, weight_format="F32")
WIDE = TinyLlama(width=256, heads=4, kv_heads=2, feed_forward=512, vocab_size=300, tied=False)
ALPHA = 8.0
TOLERANCE = 1e-5
Logits = Any


class Loaded:
    """A model with adapters, and what NumPy makes of it with these merged."""

    def __init__(self, folder: Path, model: TinyLlama, **options: Any) -> None:
        self.folder, self.model = folder, model
        self._stack = ExitStack()
        path = write_tiny_llama(folder / "tiny.gguf", model)
        self.file = self._stack.enter_context(GGUFFile(path))
        options = {"num_threads": 2, "kv_type": "f32"} | options
        self.engine = self._stack.enter_context(Engine(self.file, **options))
        self._factors: dict[Adapter, Factors] = {}

    def load(self, name: str, factors: Factors, **options: Any) -> Adapter:
        """An adapter of these factors, written and read."""
        options = {"alpha": ALPHA} | options
        path = write_gguf_adapter(self.folder / f"{name}.gguf", factors, **options)
        adapter = self.engine.adapters.load(path)
        self._factors[adapter] = factors
        return adapter

    def expected(self, tokens: list[int], scales: Mapping[Adapter, float]) -> Logits:
        """Logits of all tokens with merged weights."""
        llama = NumpyLlama(self.file)
        added = []
        for adapter, scale in scales.items():
            factors = self._factors[adapter]
            rank = next(iter(factors.values()))[1].shape[1]
            added.append((factors, scale * ALPHA / rank))
        llama.weights = added_to(llama.weights, *added)
        return llama.forward(tokens)

    def cache(self, scales: Mapping[Adapter, float], length: int = 600) -> KVCache:
        """A sequence with adapters."""
        return self.engine.new_cache(length, adapters=self.engine.adapters.adapter_set(scales))

    def forward(self, tokens: list[int], scales: Mapping[Adapter, float]) -> Logits:
        """Logits of all tokens by the engine, in one step."""
        return self.engine.forward(tokens, self.cache(scales), logits="all")

    def __enter__(self) -> Loaded:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()


@pytest.fixture(params=[False, True], ids=["fast", "exact"])
def loaded(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Loaded]:
    """A model of floats in both kinds of engine."""
    with Loaded(tmp_path, MODEL, exact=request.param) as loaded:
        yield loaded


def tokens_of(count: int, seed: int = 0) -> list[int]:
    """Random tokens that every model here has."""
    found: list[int] = np.random.default_rng(seed).integers(0, 256, count).tolist()
    return found


def check(logits: Logits, expected: Logits) -> None:
    """Equal to 1e-5 of the largest logit."""
    np.testing.assert_allclose(logits, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


@pytest.mark.parametrize("rank", [1, 4, 7, 40])
def test_one_adapter_is_as_merged(loaded: Loaded, rank: int) -> None:
    """Every matrix gets scale * alpha / rank * B A, in long steps, short ones and one by one."""
    scales = {loaded.load("a", random_gguf_factors(MODEL, rank)): 0.7}
    tokens = tokens_of(40)
    expected = loaded.expected(tokens, scales)
    assert np.abs(expected - loaded.expected(tokens, {})).max() > 0.5
    check(loaded.forward(tokens, scales), expected)
    cache, rows = loaded.cache(scales), []
    for start, end in ((0, 1), (1, 3), (3, 8), (8, 20), (20, 36), (36, 37), (37, 40)):
        rows.append(loaded.engine.forward(tokens[start:end], cache, logits="all"))
    check(np.concatenate(rows), expected)
    last = loaded.engine.forward(tokens, loaded.cache(scales))
    check(last, expected[-1:])
    check(loaded.forward(tokens, {}), loaded.expected(tokens, {}))


def test_several_adapters_add_up(loaded: Loaded) -> None:
    """Adapters of different ranks, matrices, scales and signs are all added, in any order."""
    first = loaded.load("a", random_gguf_factors(MODEL, 4, 1))
    some = ["blk.0.attn_q", "blk.1.ffn_up", "blk.1.ffn_down", "output"]
    second = loaded.load("b", random_gguf_factors(MODEL, 6, 2, names=some))
    third = loaded.load("c", random_gguf_factors(MODEL, 3, 3, names=["blk.0.ffn_gate"]))
    tokens = tokens_of(30)
    scales = {first: 0.5, second: -1.5, third: 2.0}
    logits = loaded.forward(tokens, scales)
    check(logits, loaded.expected(tokens, scales))
    other_order = dict(reversed(scales.items()))
    np.testing.assert_array_equal(logits, loaded.forward(tokens, other_order))
    without = {first: 0.0, second: 1.0, third: 0.0}
    check(loaded.forward(tokens, without), loaded.expected(tokens, {second: 1.0}))


def test_embedding(loaded: Loaded) -> None:
    """The rows of the embedding are adapted, token by token."""
    scales = {loaded.load("a", random_gguf_factors(MODEL, 6, names=[EMBEDDING])): 1.0}
    tokens = tokens_of(20)
    check(loaded.forward(tokens, scales), loaded.expected(tokens, scales))
    check(loaded.forward(tokens[:1], scales), loaded.expected(tokens[:1], scales))


def test_biases_stay(tmp_path: Path) -> None:
    """A matrix with a bias gets both."""
    model = dataclasses.replace(MODEL, biases=True)
    for exact in (False, True):
        (folder := tmp_path / str(exact)).mkdir()
        with Loaded(folder, model, exact=exact) as loaded:
            scales = {loaded.load("a", random_gguf_factors(model, 4)): 1.0}
            check(loaded.forward(tokens_of(20), scales), loaded.expected(tokens_of(20), scales))


@pytest.mark.parametrize("format_name", ["F16", "BF16", "Q8_0"])
@pytest.mark.parametrize("rank", [4, 32])
def test_formats_of_factors(tmp_path: Path, format_name: str, rank: int) -> None:
    """Factors of every type are read as they are written."""
    tolerances = {"F16": 2e-3, "BF16": 2e-2, "Q8_0": 2e-2}
    with Loaded(tmp_path, MODEL) as loaded:
        factors = random_gguf_factors(MODEL, rank)
        scales = {loaded.load("a", factors, format_name=format_name): 0.3}
        expected, tokens = loaded.expected(tokens_of(20), scales), tokens_of(20)
        error = np.abs(loaded.forward(tokens, scales) - expected).max()
        assert error < tolerances[format_name] * np.abs(expected).max()


def test_no_alpha_is_no_factor(tmp_path: Path) -> None:
    """Without an alpha the product is added as it is."""
    with Loaded(tmp_path, MODEL) as loaded:
        factors = random_gguf_factors(MODEL, 4)
        plain = loaded.load("a", factors, alpha=None)
        tokens = tokens_of(10)
        expected = loaded.expected(tokens, {plain: 4 / ALPHA})
        check(loaded.forward(tokens, {plain: 1.0}), expected)


@pytest.mark.parametrize("weight_format", formats(QUANTIZED_FORMATS))
def test_quantized_weights(tmp_path: Path, weight_format: str) -> None:
    """Under every format an adapter changes logits as much as it must, up to int8's roundings."""
    model = dataclasses.replace(WIDE, weight_format=weight_format)
    with Loaded(tmp_path, model) as loaded:
        adapter = loaded.load("a", random_gguf_factors(model, 16))
        tokens = tokens_of(40)
        plain = np.abs(loaded.forward(tokens, {}) - loaded.expected(tokens, {})).max()
        expected = loaded.expected(tokens, {adapter: 1.0})
        change = np.abs(expected - loaded.expected(tokens, {})).max()
        cache = loaded.cache({adapter: 1.0})
        by_one = [loaded.engine.forward([token], cache, logits="all") for token in tokens[:9]]
        few = loaded.engine.forward(tokens[9:15], cache, logits="all")
        rest = loaded.engine.forward(tokens[15:], cache, logits="all")
        for logits in (
            loaded.forward(tokens, {adapter: 1.0}),
            np.concatenate([*by_one, few, rest]),
        ):
            error = np.abs(logits - expected).max()
            assert error < max(4 * plain, 0.05 * change)


def run_together(engine: Engine, works: list[Work]) -> list[Logits]:
    """What works give that share steps."""
    while left := [work for work in works if not work.is_over]:
        engine.scheduler.run_any(left)
    return [work.result(engine.config.vocab_size) for work in works]


@pytest.mark.parametrize("weight_format", ["Q4_0", "Q4_K", "Q6_K", "F16"])
def test_neighbours_change_no_bits(tmp_path: Path, weight_format: str) -> None:
    """Sequences with different adapters, in one step, have the bits of each alone."""
    model = dataclasses.replace(WIDE, weight_format=weight_format)
    rng = np.random.default_rng(0)
    with Loaded(tmp_path, model, exact=True, kv_type="f16", cache_limit=1 << 28) as loaded:
        engine = loaded.engine
        first = loaded.load("a", random_gguf_factors(model, 8, 1), format_name="F16")
        second = loaded.load("b", random_gguf_factors(model, 5, 2))
        third = loaded.load("c", random_gguf_factors(model, 4, 3, names=["blk.0.ffn_up"]))
        table = loaded.load("d", random_gguf_factors(model, 4, 4, names=[EMBEDDING, "output"]))
        sets: list[dict[Adapter, float]] = [
            *({}, {first: 1.0}, {first: 0.5}, {second: 1.0, first: -1.0}, {third: 1.0}),
            *({table: 1.0}, {first: 1.0}),
        ]
        shared = tokens_of(260)
        texts = [[*shared[: rng.integers(0, 260)], *tokens_of(30, i)] for i in range(len(sets))]
        alone = [loaded.forward(text, sets[i]) for i, text in enumerate(texts)]
        for _ in range(4):
            states = [(loaded.cache(sets[i]), i) for i in range(len(sets))]
            for cache, number in states:
                cache.reuse(texts[number][: rng.integers(1, 300)])
            while states:
                works, places = [], []
                for cache, number in states:
                    left = len(texts[number]) - cache.length
                    count = min(left, int(rng.choice([1, 1, 2, 5, 13, 140])))
                    tokens = texts[number][cache.length : cache.length + count]
                    wanted = "all" if rng.random() < 0.7 else "last"
                    works.append(engine.work(tokens, cache, logits=wanted))
                    end = cache.length + count
                    places.append(
                        (number, slice(cache.length if wanted == "all" else end - 1, end))
                    )
                for logits, (number, rows) in zip(run_together(engine, works), places, strict=True):
                    np.testing.assert_array_equal(logits, alone[number][rows])
                states = [(cache, i) for cache, i in states if cache.length < len(texts[i])]
        assert len(engine._machine.programs) <= MAX_PROGRAMS


def test_keys_and_values_are_shared_among_equal_adapters_alone(tmp_path: Path) -> None:
    """Pages are found with the same adapters and scales, and with no others."""
    with Loaded(tmp_path, MODEL, cache_limit=1 << 28) as loaded:
        first = loaded.load("a", random_gguf_factors(MODEL, 4, 1))
        again = loaded.load("a2", random_gguf_factors(MODEL, 4, 1))
        other = loaded.load("b", random_gguf_factors(MODEL, 4, 2))
        tokens = tokens_of(200)
        loaded.engine.forward(tokens, loaded.cache({first: 1.0}))
        assert loaded.cache({first: 1.0}).reuse(tokens) == 128
        for scales in ({}, {first: 0.5}, {other: 1.0}, {first: 1.0, other: 1.0}):
            assert loaded.cache(scales).reuse(tokens) == 0
        assert loaded.cache({first: 1.0}).fork().adapters is loaded.cache({first: 1}).adapters
        assert loaded.cache({first: 1.0, other: 0.0}).reuse(tokens) == 128
        assert again.digest == first.digest
        # Another adapter of the same numbers shares the pages, and keeps its own name.
        assert loaded.cache({again: 1.0}).reuse(tokens) == 128
        assert list(loaded.cache({again: 1.0}).adapters.scales) == [again]


def test_other_adapters_forget_the_tokens(tmp_path: Path) -> None:
    """A sequence that changes its adapters starts anew, and equal ones change nothing."""
    with Loaded(tmp_path, MODEL) as loaded:
        adapter = loaded.load("a", random_gguf_factors(MODEL, 4))
        cache = loaded.cache({adapter: 1.0})
        tokens = tokens_of(50)
        loaded.engine.forward(tokens, cache)
        cache.adapters = loaded.engine.adapters.adapter_set({"a": 1})
        assert cache.length == 50
        cache.adapters = NO_ADAPTERS
        assert cache.length == 0
        np.testing.assert_array_equal(
            loaded.engine.forward(tokens, cache, logits="all"), loaded.forward(tokens, {})
        )


def test_the_names_of_adapters(tmp_path: Path) -> None:
    """A name is the file's unless another is given, stands for one adapter, and can be freed."""
    with Loaded(tmp_path, MODEL) as loaded:
        shelf = loaded.engine.adapters
        path = write_gguf_adapter(tmp_path / "style.gguf", random_gguf_factors(MODEL, 4))
        style = shelf.load(path)
        assert (style.name, style.ranks, style.num_matrices) == ("style", (4,), 15)
        with pytest.raises(InvalidOptionError, match="'style' is loaded already"):
            shelf.load(path)
        other = shelf.load(path, "other")
        assert list(shelf.loaded) == ["style", "other"]
        cache = loaded.cache({style: 1.0})
        shelf.unload("style")
        assert list(shelf.loaded) == ["other"]
        check(
            loaded.engine.forward(tokens_of(9), cache, logits="all"),
            loaded.forward(tokens_of(9), {other: 1.0}),
        )
        for key in ("style", style, 7):
            with pytest.raises(InvalidOptionError, match="is not loaded for this model"):
                shelf.adapter_set({key: 1.0})  # type: ignore[dict-item]
        for scale in (float("nan"), float("inf"), 1e9, "1", None, True):
            with pytest.raises(InvalidOptionError, match="the scale of adapter 'other' is"):
                shelf.adapter_set({other: scale})  # type: ignore[dict-item]
        with pytest.raises(InvalidOptionError, match="given twice"):
            shelf.adapter_set({other: 1.0, "other": 2.0})
        with pytest.raises(InvalidOptionError, match="allowed: a dictionary"):
            shelf.adapter_set(["other"])  # type: ignore[arg-type]


def test_programs_without_adapters_stay_as_they_were(tmp_path: Path) -> None:
    """A loaded adapter that nobody uses adds no ops and no programs."""
    with Loaded(tmp_path, MODEL) as loaded:
        loaded.forward(tokens_of(40), {})
        programs = dict(loaded.engine._machine.programs)
        adapter = loaded.load("a", random_gguf_factors(MODEL, 4))
        loaded.forward(tokens_of(40), {})
        assert loaded.engine._machine.programs == programs
        loaded.forward(tokens_of(40), {adapter: 1.0})
        assert len(loaded.engine._machine.programs) > len(programs)
