"""Steps of which few rows are wanted: the others end early in the last layer; nothing differs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from reference.adapter_files import random_gguf_factors, write_gguf_adapter
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama.engine.engine import Engine
from edgellama.engine.pages.kv_cache import KVCache
from edgellama.engine.program.step_values import NUM_OUTPUTS, NUM_TOKENS
from edgellama.engine.running.step_timer import StepTimer
from edgellama.engine.scheduling.work import Work
from edgellama.engine.steps.segments import Wanted
from edgellama.engine.weights.adapter_set import NO_ADAPTERS, AdapterSet
from edgellama.quant.gguf.file import GGUFFile

WIDE = TinyLlama(width=256, heads=4, kv_heads=2, feed_forward=512, layers=2, vocab_size=300)
LENGTH = 700


@pytest.fixture(params=["Q4_0", "Q6_K", "F16"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """An exact engine over a tiny model of a format of each kind."""
    model = dataclasses.replace(WIDE, weight_format=request.param)
    path = write_tiny_llama(tmp_path / "tiny.gguf", model)
    with GGUFFile(path) as file, Engine(file, num_threads=2, exact=True) as engine:
        yield engine


def adapter_sets(engine: Engine, folder: Path) -> list[AdapterSet]:
    """None, one adapter, and that one beside another."""
    paths = [
        write_gguf_adapter(folder / f"{rank}.gguf", random_gguf_factors(WIDE, rank, rank))
        for rank in (4, 7)
    ]
    first, second = (engine.adapters.load(path) for path in paths)
    chosen = ({first: 0.7}, {first: 0.7, second: 0.3})
    return [NO_ADAPTERS, *(engine.adapters.adapter_set(scales) for scales in chosen)]


def test_what_is_wanted_changes_no_bits(engine: Engine, tmp_path: Path) -> None:
    """Logits of a few tokens, and those of what follows, are as if all had been wanted."""
    rng = np.random.default_rng(0)
    sets = adapter_sets(engine, tmp_path)
    texts = [rng.integers(0, 300, 650).tolist() for _ in range(6)]
    expected = [
        engine.forward(text, engine.new_cache(LENGTH, adapters=sets[number % 3]), logits="all")
        for number, text in enumerate(texts)
    ]
    caches = [engine.new_cache(LENGTH, adapters=sets[number % 3]) for number in range(6)]
    choices: list[Wanted] = ["last", "none", "next", 3, 30, "each"]
    while running := [number for number in range(6) if caches[number].length < 650]:
        works: list[tuple[int, int, Work]] = []
        for number in running:
            start = caches[number].length
            count = min(650 - start, int(rng.choice([1, 1, 1, 2, 13, 40, 130, 560])))
            wanted = choices[rng.integers(len(choices))]
            tokens = texts[number][start : start + count]
            work = engine.work(tokens, caches[number], logits=wanted)
            works.append((number, start + count, work))
        while left := [work for _, _, work in works if not work.is_over]:
            engine.scheduler.run_any(left)
        for number, end, work in works:
            found = work.result(engine.config.vocab_size)
            np.testing.assert_array_equal(found, expected[number][end - len(found) : end])


def test_logits_of_many_tokens_stay_as_they_are(tmp_path: Path) -> None:
    """Later steps change none of them, and they are those of a few tokens at a time."""
    model = dataclasses.replace(WIDE, vocab_size=320)
    path = write_tiny_llama(tmp_path / "tiny.gguf", model)
    with GGUFFile(path) as file, Engine(file, num_threads=2, exact=True) as engine:
        tokens = np.random.default_rng(0).integers(0, 320, 150).tolist()
        many = engine.forward(tokens, engine.new_cache(LENGTH), logits="all")
        some = engine.forward(tokens[:40], engine.new_cache(LENGTH), logits="all")
        engine.forward(tokens[::-1], engine.new_cache(LENGTH), logits="all")
        cache = engine.new_cache(LENGTH)
        few = [
            engine.forward(tokens[at : at + 10], cache, logits="all") for at in range(0, 150, 10)
        ]
        np.testing.assert_array_equal(many, np.concatenate(few))
        np.testing.assert_array_equal(some, many[:40])


def last_layer(engine: Engine, timer: StepTimer, wanted: Wanted) -> dict[str, object]:
    """How many rows go through the last layer's matrices, by their names, of a step of 40."""
    timer.take_jobs()
    engine.forward(list(range(40)), engine.new_cache(64), logits=wanted)
    ops = [op for job in timer.take_jobs() for op in job.ops]
    return {
        op.label.split(".")[2]: op.arguments["num_tokens"]
        for op in ops
        if op.label.startswith("blk.1.")
    }


def test_nobody_computes_what_nobody_wants(tmp_path: Path) -> None:
    """The last layer's end is computed for wanted rows alone, and its queries for them at all."""
    path = write_tiny_llama(tmp_path / "tiny.gguf", WIDE)
    timer = StepTimer()
    with GGUFFile(path) as file, Engine(file, num_threads=2, timer=timer) as engine:
        assert last_layer(engine, timer, "none") == dict.fromkeys(["attn_k", "attn_v"], NUM_TOKENS)
        assert last_layer(engine, timer, "last") == {
            **dict.fromkeys(["attn_q", "attn_k", "attn_v"], NUM_TOKENS),
            **dict.fromkeys(["attn_output", "ffn_gate", "ffn_up", "ffn_down"], NUM_OUTPUTS),
        }
        for wanted in ("all", "rows"):
            found = last_layer(engine, timer, wanted)
            assert len(found) > 5
            assert set(found.values()) == {NUM_TOKENS}


def test_a_stored_layer_is_a_whole_one(tmp_path: Path) -> None:
    """Where queries are left out, keys and values of every type are the same bytes."""
    model = dataclasses.replace(WIDE, heads=6, head_size=64)
    path = write_tiny_llama(tmp_path / "tiny.gguf", model)
    tokens = np.random.default_rng(0).integers(0, 300, 300)
    with GGUFFile(path) as file, Engine(file, num_threads=2) as engine:
        for kv_type in ("f32", "f16", "q8_0", "bf16/q4_0", "q4_0/bf16"):
            caches: list[KVCache] = []
            for wanted in ("none", "last", "all"):
                caches.append(engine.new_cache(LENGTH, kv_type=kv_type))
                engine.forward(tokens, caches[-1], logits=wanted)
            logits = [engine.forward([1], cache) for cache in caches]
            np.testing.assert_array_equal(logits[0], logits[2])
            np.testing.assert_array_equal(logits[1], logits[2])
