"""The kernel that attends with few tokens over the card's pages, in its CPU form."""

from __future__ import annotations

import math

import numpy as np
import pytest
from doubles.warps import FASTEST, warp_runner
from harness.caches import CacheRunner
from harness.cards import Array, CardCache, Part
from harness.kernels import TIERS, runner_of
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellama.cuda.decode_layout import head_parts, part_rows
from edgellama.cuda.layouts import MAX_HEAD_SIZE
from edgellama.kernels_cpu.layouts import ALL_KEYS
from edgellama.kernels_cpu.signatures import Kernel

KERNELS = {
    ("f16", "f16"): 3,
    ("f32", "f32"): 2,
    ("bf16", "q4_0"): 3,
    ("q4_0", "bf16"): 8,
    ("q8_0", "q8_0"): 5,
}
"""Types of keys and values, each once as either, and the rows of the kernel that is called."""
ACCURACY = 4e-6
"""Of f32, relative to the largest number."""


@pytest.fixture(scope="module", autouse=True)
def compiled_together() -> None:
    """All kernels of this file at once, so that the compilers share what they type."""
    names = [Kernel("card_store", pair).name for pair in KERNELS]
    names += [Kernel("card_attend_few", (*pair, rows)).name for pair, rows in KERNELS.items()]
    warp_runner().preload(names)


def groups_of(rows: int) -> list[int]:
    """Query heads of a KV head that a kernel of so many rows serves, in one part or two."""
    return [group for group in range(1, 17) if part_rows(group) == rows]


def filled(card: CardCache, parts: list[Part], rng: np.random.Generator) -> None:
    """Store numbers at all positions that ``parts`` see, through the kernel."""
    for part in parts:
        shape = (part.position + part.num_tokens, card.kv_heads, card.head_size)
        keys, values = (rng.normal(size=shape).astype(np.float32) for _ in range(2))
        card.store([Part(part.sequence, 0, shape[0])], keys, values)


def queries(card: CardCache, parts: list[Part], rng: np.random.Generator) -> Array:
    """Random queries for all rows of a step."""
    rows = sum(part.num_tokens for part in parts)
    return rng.normal(size=(rows, card.heads, card.head_size)).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(
    pair=st.sampled_from(list(KERNELS)),
    head_size=st.one_of(
        st.integers(1, MAX_HEAD_SIZE // 2).map(lambda half: 2 * half),
        st.sampled_from([2, 16, 64, 128, 256]),
    ),
    kv_heads=st.integers(1, 2),
    number=st.integers(0, 1),
    window=st.one_of(st.just(ALL_KEYS), st.integers(1, 300)),
    split_keys=st.sampled_from([128, 256, ALL_KEYS]),
    parts=st.lists(st.tuples(st.integers(0, 500), st.integers(1, 8)), min_size=1, max_size=4),
    seed=st.integers(0, 9),
)
def test_as_the_formula_says(
    pair: tuple[str, str],
    head_size: int,
    kv_heads: int,
    number: int,
    window: int,
    split_keys: int,
    parts: list[tuple[int, int]],
    seed: int,
) -> None:
    """Ragged segments give softmax(q k) v over the stored keys and values, to f32's accuracy."""
    rng = np.random.default_rng(seed)
    groups = groups_of(KERNELS[pair])
    group = groups[number % len(groups)]
    table = [Part(i, *part) for i, part in enumerate(parts)]
    card = CardCache(warp_runner(), pair, head_size, kv_heads, group, len(table), 508, window)
    filled(card, table, rng)
    q = queries(card, table, rng)
    expected = card.naive(table, q)
    result = card.attend_few(table, q, split_keys, seed)
    assert np.abs(result - expected).max() < ACCURACY * np.abs(expected).max()


def test_many_splits() -> None:
    """More parts than a warp has lanes are merged, and a large score hides all others."""
    rng = np.random.default_rng(1)
    card = CardCache(warp_runner(), ("f16", "f16"), 8, 1, 3, 1, 33 * 128 + 1)
    part = Part(0, 33 * 128, 1)
    filled(card, [part], rng)
    q = queries(card, [part], rng) * np.float32(8)
    expected = card.naive([part], q)
    result = card.attend_few([part], q, 128)
    assert np.abs(result - expected).max() < ACCURACY * np.abs(expected).max()


@pytest.mark.parametrize("pair", KERNELS)
def test_as_the_cpu(pair: tuple[str, str]) -> None:
    """The card's result is that of the CPU's kernel over the same keys and values."""
    rng = np.random.default_rng(4)
    head_size, kv_heads, group, count = 64, 2, KERNELS[pair], 300
    shape = (count, kv_heads, head_size)
    k, v = (rng.normal(size=shape).astype(np.float32) for _ in range(2))
    q = rng.normal(size=(count, kv_heads * group, head_size)).astype(np.float32)
    cpu = CacheRunner(runner_of(FASTEST), pair, head_size, kv_heads, group, count)
    q, k = cpu.store(0, q, k, v)
    card = CardCache(warp_runner(), pair, head_size, kv_heads, group, 1, count)
    card.store([Part(0, 0, count)], k, v)
    last = 5
    rows = 3 if pair != ("f32", "f32") else 8
    expected = cpu.attend(count - last, q[-last:], rows=rows, split_keys=128)
    result = card.attend_few([Part(0, count - last, last)], q[-last:], 128)
    assert np.abs(result - expected).max() < 1e-5 * np.abs(expected).max()


def test_bits_depend_on_nothing_else() -> None:
    """A token's result has the same bits in any company, whoever finishes last, also at once."""
    rng = np.random.default_rng(6)
    card = CardCache(warp_runner(), ("bf16", "q4_0"), 64, 2, 3, 3, 700)
    parts = [Part(0, 600, 4), Part(1, 0, 1), Part(2, 690, 2)]
    filled(card, parts, rng)
    q = queries(card, parts, rng)
    together = [card.attend_few(parts, q, 128, seed).tobytes() for seed in range(4)]
    together += [card.attend_few(parts, q, 128, seed, at_once=4).tobytes() for seed in range(20)]
    assert len(set(together)) == 1
    alone = [card.attend_few([Part(0, 600 + i, 1)], q[i : i + 1], 128).tobytes() for i in range(4)]
    assert together[0].startswith(b"".join(alone))


@pytest.mark.slow
def test_every_tier() -> None:
    """The CPU form is right without the instructions of a fast CPU, too."""
    for tier in TIERS:
        rng = np.random.default_rng(8)
        card = CardCache(warp_runner(tier), ("f16", "f16"), 64, 2, 3, 2, 300)
        parts = [Part(0, 290, 2), Part(1, 5, 3)]
        filled(card, parts, rng)
        q = queries(card, parts, rng)
        expected = card.naive(parts, q)
        result = card.attend_few(parts, q, 128)
        assert np.abs(result - expected).max() < ACCURACY * np.abs(expected).max()


def test_a_score_too_large_for_others() -> None:
    """Scores of thousands neither overflow nor make numbers that are none."""
    card = CardCache(warp_runner(), ("f32", "f32"), 64, 1, 2, 1, 130)
    rng = np.random.default_rng(7)
    part = Part(0, 129, 1)
    filled(card, [part], rng)
    q = queries(card, [part], rng) * np.float32(1e4)
    keys, values = card.stored(0)
    best = np.argmax(keys[:130, 0] @ q[0].T, axis=0)
    result = card.attend_few([part], q)
    assert np.abs(result[0] - values[best, 0]).max() < 1e-6


def test_parts_of_a_group() -> None:
    """Query heads are shared evenly among as few warps as can have them."""
    for group in range(1, 65):
        assert head_parts(group) == math.ceil(group / 8)
        assert group <= head_parts(group) * part_rows(group) < group + head_parts(group)
