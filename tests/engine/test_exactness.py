"""Exact engines: a token has the same bits alone, in any batch, after a fork, from found pages."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from harness.kernels import TIERS, tier_name
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama.engine.engine import Engine
from edgellama.engine.pages.kv_cache import KVCache
from edgellama.engine.scheduling.work import Work
from edgellama.kernels_cpu.machine.cpu import Tier
from edgellama.quant.gguf.file import GGUFFile

WIDE = TinyLlama(width=256, heads=4, kv_heads=2, feed_forward=512, layers=2, vocab_size=300)
Logits = npt.NDArray[np.float32]


@pytest.fixture(scope="module", params=TIERS[:1], ids=tier_name)
def tier(request: pytest.FixtureRequest) -> Tier:
    """The fastest tier."""
    found: Tier = request.param
    return found


@pytest.fixture(params=["Q4_0", "Q6_K", "F16"])
def engine(request: pytest.FixtureRequest, tier: Tier, tmp_path: Path) -> Iterator[Engine]:
    """An exact engine over a tiny model of a format of each kind, whose pages are kept."""
    model = dataclasses.replace(WIDE, weight_format=request.param)
    path = write_tiny_llama(tmp_path / "tiny.gguf", model)
    with (
        GGUFFile(path) as file,
        Engine(file, num_threads=2, tier=tier.name, exact=True, cache_limit=1 << 28) as engine,
    ):
        yield engine


def run_together(engine: Engine, works: list[Work]) -> list[Logits]:
    """What works give that share steps."""
    while left := [work for work in works if not work.is_over]:
        engine.scheduler.run_any(left)
    return [work.result(engine.config.vocab_size) for work in works]


def test_any_schedule_gives_the_bits_of_each_sequence_alone(engine: Engine) -> None:
    """Random prompts, batches, forks and found pages: all logits are those of one long step."""
    rng = np.random.default_rng(0)
    shared = rng.integers(0, 300, 300).tolist()
    texts = [[*shared[: rng.integers(0, 300)], *rng.integers(0, 300, 40)] for _ in range(6)]
    alone = [engine.forward(text, engine.new_cache(600), logits="all") for text in texts]
    for _ in range(3):
        states: list[tuple[KVCache, int]] = []
        for number in range(len(texts)):
            cache = engine.new_cache(600)
            cache.reuse(texts[number][: rng.integers(1, 300)])
            states.append((cache, number))
        while states:
            works, chosen = [], []
            for cache, number in states:
                left = len(texts[number]) - cache.length
                count = min(left, int(rng.choice([1, 1, 2, 5, 13, 140])))
                tokens = texts[number][cache.length : cache.length + count]
                works.append(engine.work(tokens, cache, logits="all"))
                chosen.append((number, cache.length, count))
            for logits, (number, start, count) in zip(
                run_together(engine, works), chosen, strict=True
            ):
                np.testing.assert_array_equal(logits, alone[number][start : start + count])
            states = [(c, n) for c, n in states if c.length < len(texts[n])]
            if states and len(states) < 8 and rng.random() < 0.3:
                cache, number = states[0]
                states.append((cache.fork(), number))
