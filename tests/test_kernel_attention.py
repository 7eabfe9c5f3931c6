"""Rotating, storing and attending over a real cache against the naive twins."""

from __future__ import annotations

from collections.abc import Iterator

import naive_kernels as naive
import numpy as np
import pytest
from kernel_harness import TIERS, CacheRunner, KernelRunner, runner_of, tier_name

from edgellama.kernels_cpu.signatures import ATTENTION_KEYS, ATTENTION_ROWS, CACHE_TYPES

KERNELS = [f"rope_store_{kind}" for kind in CACHE_TYPES] + [
    f"attention_{kind}_{rows}" for kind in CACHE_TYPES for rows in ATTENTION_ROWS
]
HEAD_SIZES = (64, 80, 96, 100, 128)
HALF_LARGEST = 65504.0


@pytest.fixture(scope="module", params=TIERS, ids=tier_name)
def runner(request: pytest.FixtureRequest) -> Iterator[KernelRunner]:
    """The kernels of each tier in turn, compiled in one go."""
    runner = runner_of(request.param)
    runner.preload(KERNELS)
    yield runner


class Filled:
    """A cache with ``length`` stored tokens, and what was stored, from one seed."""

    def __init__(self, cache: CacheRunner, length: int, spread: float = 1.0) -> None:
        self.cache, self.length = cache, length
        self._rng = np.random.default_rng(length)
        size = cache.head_size
        self.q = self._normal(length, cache.heads, size) * np.float32(spread)
        self.k, self.v = (self._normal(length, cache.kv_heads, size) for _ in range(2))
        self.rotated_q, self.rotated_k = cache.store(0, self.q, self.k, self.v)

    def _normal(self, *shape: int) -> naive.Array:
        return self._rng.standard_normal(shape).astype(np.float32)

    def check(
        self, position: int, num_tokens: int, tolerance: float = 3e-6, **options: int
    ) -> None:
        """Attention of the tokens from ``position`` on equals the twin's over what is stored."""
        q = np.ascontiguousarray(self.rotated_q[position : position + num_tokens])
        y = self.cache.attend(position, q, **options)
        keys, values = self.cache.stored_keys(), self.cache.stored_values()
        expected = naive.attention(q, keys, values, position)
        np.testing.assert_allclose(y, expected, rtol=0, atol=tolerance)


def round_to(kv_type: str, numbers: naive.Array) -> naive.Array:
    """As the cache stores them."""
    return numbers.astype({"f32": np.float32, "f16": np.float16}[kv_type])


@pytest.mark.parametrize("kv_type", CACHE_TYPES)
@pytest.mark.parametrize("head_size", [*HEAD_SIZES, 2, 6, 20])
def test_rope_store(runner: KernelRunner, kv_type: str, head_size: int) -> None:
    """Queries and keys are turned, keys and values stored at their positions, exactly rounded."""
    cache = CacheRunner(runner, kv_type, head_size, kv_heads=3, group=2, context_length=75)
    rng = np.random.default_rng(head_size)
    k_rows, v_rows = [], []
    for position, num_tokens in ((0, 1), (1, 30), (31, 1), (32, 2), (34, 41)):
        q = rng.standard_normal((num_tokens, 6, head_size)).astype(np.float32)
        k, v = (rng.standard_normal((num_tokens, 3, head_size)).astype(np.float32) for _ in "kv")
        rotated_q, rotated_k = cache.store(position, q, k, v)
        pairs = head_size // 2
        np.testing.assert_allclose(rotated_q, naive.rotate(q, position, pairs), 0, 1e-6)
        np.testing.assert_allclose(rotated_k, naive.rotate(k, position, pairs), 0, 1e-6)
        k_rows.append(round_to(kv_type, rotated_k))
        v_rows.append(round_to(kv_type, v))
    keys, values = (np.concatenate(rows).swapaxes(0, 1) for rows in (k_rows, v_rows))
    np.testing.assert_array_equal(cache.stored_keys()[:, :75], keys)
    np.testing.assert_array_equal(cache.stored_values()[:, :75], values)
    assert np.isnan(cache.stored_keys()[:, 75:]).all()
    assert np.isnan(cache.stored_values()[:, 75:]).all()


@pytest.mark.parametrize("pairs", [1, 3, 16, 31])
def test_partial_rotation(runner: KernelRunner, pairs: int) -> None:
    """Only the first pairs of a head turn, an odd number of them too; the rest keeps its bits."""
    cache = CacheRunner(runner, "f32", 64, kv_heads=2, group=2, context_length=40, pairs=pairs)
    rng = np.random.default_rng(pairs)
    q = rng.standard_normal((40, 4, 64)).astype(np.float32)
    k, v = (rng.standard_normal((40, 2, 64)).astype(np.float32) for _ in "kv")
    rotated_q, rotated_k = cache.store(0, q, k, v)
    for rotated, given in ((rotated_q, q), (rotated_k, k)):
        np.testing.assert_allclose(rotated, naive.rotate(given, 0, pairs), 0, 1e-6)
        np.testing.assert_array_equal(rotated[:, :, 2 * pairs :], given[:, :, 2 * pairs :])


def test_far_positions(runner: KernelRunner) -> None:
    """Angles at position 100000 are as good as at 0."""
    cache = CacheRunner(runner, "f16", 64, kv_heads=1, group=1, context_length=100_008)
    x = np.random.default_rng(0).standard_normal((8, 1, 64)).astype(np.float32)
    rotated, _ = cache.store(100_000, x, x, x)
    np.testing.assert_allclose(rotated, naive.rotate(x, 100_000, 32), 0, 2e-6)


def test_rounding_to_half(runner: KernelRunner) -> None:
    """Numbers beside every half and beside every midpoint round as IEEE asks: all 65536."""
    halves = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32)
    finite = halves[np.isfinite(halves)]
    following = np.sort(finite)
    middles = (following[1:].astype(np.float64) + following[:-1]) / 2
    numbers = np.concatenate([halves, middles.astype(np.float32)])
    with np.errstate(invalid="ignore", over="ignore"):
        beside = [np.nextafter(numbers, np.float32(end)) for end in (-np.inf, np.inf)]
    special = [65519.996, 65520.0, 65536.0, 1e38, np.inf, 2.0**-25, 2.0**-26, 1e-45, np.nan]
    signed = np.array([*special, *(-s for s in special)], np.float32)
    everything = np.concatenate([numbers, *beside, signed])
    values = np.resize(everything, (-(-len(everything) // 512), 8, 64))
    tokens = len(values)
    cache = CacheRunner(runner, "f16", 64, kv_heads=8, group=1, context_length=tokens, pairs=0)
    cache.store(0, np.zeros_like(values), values, values)
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16).swapaxes(0, 1)
    number = ~np.isnan(expected)
    for stored in (cache.stored_values()[:, :tokens], cache.stored_keys()[:, :tokens]):
        np.testing.assert_array_equal(np.isnan(stored), ~number)
        given = np.ascontiguousarray(stored).view(np.uint16)[number]
        np.testing.assert_array_equal(given, expected.copy().view(np.uint16)[number])


@pytest.mark.parametrize("kv_type", CACHE_TYPES)
@pytest.mark.parametrize("head_size", HEAD_SIZES)
def test_head_sizes(runner: KernelRunner, kv_type: str, head_size: int) -> None:
    """Every head size, for one token and for many, before and behind block borders."""
    cache = CacheRunner(runner, kv_type, head_size, kv_heads=2, group=3, context_length=300)
    filled = Filled(cache, 300)
    for position, num_tokens in ((0, 1), (0, 300), (31, 1), (32, 1), (127, 3), (128, 1), (299, 1)):
        filled.check(position, num_tokens)
        filled.check(position, num_tokens, tokens_per_task=5, rows=8)


@pytest.mark.parametrize("kv_type", CACHE_TYPES)
@pytest.mark.parametrize("group", [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 17])
def test_groups(runner: KernelRunner, kv_type: str, group: int) -> None:
    """Any number of query heads to a key head, also more than one kernel takes together."""
    cache = CacheRunner(runner, kv_type, 64, kv_heads=2, group=group, context_length=140)
    filled = Filled(cache, 140)
    filled.check(139, 1)
    filled.check(126, 4)
    filled.check(0, 140, tokens_per_task=max(1, 32 // group), rows=8)


@pytest.mark.parametrize("rows", ATTENTION_ROWS)
def test_padding_rows(runner: KernelRunner, rows: int) -> None:
    """A kernel of any number of rows handles tasks whose rows are fewer or do not divide."""
    cache = CacheRunner(runner, "f16", 64, kv_heads=1, group=3, context_length=140)
    filled = Filled(cache, 140)
    for num_tokens, tokens_per_task in ((1, 1), (5, 2), (13, 7)):
        filled.check(127, num_tokens, tokens_per_task=tokens_per_task, rows=rows)


@pytest.mark.parametrize("kv_type", CACHE_TYPES)
def test_every_position_across_key_blocks(runner: KernelRunner, kv_type: str) -> None:
    """One token at each position from 0 to past two key blocks sees exactly the keys before it."""
    length = 2 * ATTENTION_KEYS + 3
    cache = CacheRunner(runner, kv_type, 20, kv_heads=1, group=2, context_length=length)
    filled = Filled(cache, length, spread=3.0)
    for position in range(length):
        filled.check(position, 1)


@pytest.mark.parametrize("spread", [30.0, 300.0])
def test_large_scores(runner: KernelRunner, spread: float) -> None:
    """Scores far apart, whose running maximum jumps between key blocks, stay exact."""
    cache = CacheRunner(runner, "f32", 64, kv_heads=1, group=4, context_length=400)
    filled = Filled(cache, 400, spread)
    tolerance = 2e-6 * spread
    filled.check(0, 400, tolerance, tokens_per_task=8, rows=8)
    filled.check(399, 1, tolerance)


def test_rising_scores(runner: KernelRunner) -> None:
    """When every later key outdoes all before it, the last one alone is returned."""
    cache = CacheRunner(runner, "f32", 4, kv_heads=1, group=1, context_length=300, pairs=0)
    k = np.arange(300, dtype=np.float32)[:, None, None] * np.ones((1, 1, 4), np.float32)
    v = np.random.default_rng(0).standard_normal((300, 1, 4)).astype(np.float32)
    cache.store(0, np.ones((300, 1, 4), np.float32), k, v)
    q = np.full((1, 1, 4), 50.0, np.float32)
    np.testing.assert_array_equal(cache.attend(299, q)[0], v[299])


def test_equal_scores(runner: KernelRunner) -> None:
    """Queries of zero give the mean of all visible values."""
    cache = CacheRunner(runner, "f32", 64, kv_heads=1, group=1, context_length=260)
    filled = Filled(cache, 260)
    y = cache.attend(0, np.zeros((260, 1, 64), np.float32), tokens_per_task=8, rows=8)
    means = filled.v[:, 0].astype(np.float64).cumsum(0) / np.arange(1, 261)[:, None]
    np.testing.assert_allclose(y[:, 0], means, rtol=0, atol=1e-6)


def test_tasks_and_threads_do_not_matter(runner: KernelRunner) -> None:
    """A decoded token has the same bits whatever tokens, tasks and threads are beside it."""
    cache = CacheRunner(runner, "f16", 64, kv_heads=2, group=3, context_length=200)
    filled = Filled(cache, 200)
    q = np.ascontiguousarray(filled.rotated_q[196:])
    alone = np.concatenate([cache.attend(196 + i, q[i : i + 1]) for i in range(4)])
    np.testing.assert_array_equal(cache.attend(196, q, num_threads=3), alone)
    np.testing.assert_array_equal(cache.attend(196, q[:2].copy(), num_threads=1), alone[:2])


def test_rewritten_positions(runner: KernelRunner) -> None:
    """Tokens stored again at earlier positions replace what was there."""
    cache = CacheRunner(runner, "f16", 64, kv_heads=1, group=2, context_length=80)
    filled = Filled(cache, 80)
    cache.store(30, filled.q[:20], filled.k[:20] + 1, filled.v[:20] - 1)
    expected = filled.v.astype(np.float16)
    expected[30:50] = (filled.v[:20] - 1).astype(np.float16)
    np.testing.assert_array_equal(cache.stored_values()[0, :80], expected[:, 0])
    filled.check(49, 1)
