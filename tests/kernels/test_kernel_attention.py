"""Rotating, storing and attending over a real cache against the naive twins."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from harness import naive_kernels as naive
from harness.caches import PAIRS, CacheRunner, cache_kernels, methods
from harness.kernels import TIERS, KernelRunner, runner_of, tier_name

from edgellama.kernels_cpu.layouts import ALL_KEYS, ATTENTION_KEYS

F16 = ("f16", "f16")
HEAD_SIZES = (64, 80, 96, 100, 128)
PACKED_TOLERANCE = 6e-4
"""For queries, keys and values of unit variance; f32 sums stay below a two-hundredth of it."""


@pytest.fixture(scope="module", params=TIERS, ids=tier_name)
def runner(request: pytest.FixtureRequest) -> Iterator[KernelRunner]:
    """The kernels of each tier in turn, compiled in one go."""
    runner = runner_of(request.param)
    runner.preload(cache_kernels(request.param))
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
        self,
        position: int,
        num_tokens: int,
        tolerance: float = 3e-6,
        rows: int | str = 3,
        window: int | None = None,
        **options: int,
    ) -> None:
        """Attention of the tokens from ``position`` on equals the twin's over what is stored."""
        self.cache.window = ALL_KEYS if window is None else window
        q = np.ascontiguousarray(self.rotated_q[position : position + num_tokens])
        y = self.cache.attend(position, q, rows=rows, **options)
        keys, values = self.cache.stored_keys(), self.cache.stored_values()
        expected = naive.attention(q, keys, values, position, window)
        np.testing.assert_allclose(y, expected, rtol=0, atol=tolerance)


def pair_name(pair: object) -> str | None:
    """How pytest shows types of keys and values."""
    return ":".join(pair) if isinstance(pair, tuple) else None


@pytest.mark.parametrize("types", PAIRS, ids=pair_name)
@pytest.mark.parametrize("head_size", [*HEAD_SIZES, 2, 6, 20])
def test_rope_store(runner: KernelRunner, types: tuple[str, str], head_size: int) -> None:
    """Queries and keys are turned, keys and values stored at their positions, exactly rounded."""
    cache = CacheRunner(runner, types, head_size, kv_heads=3, group=2, context_length=75)
    rng = np.random.default_rng(head_size)
    rows = []
    for position, num_tokens in ((0, 1), (1, 30), (31, 1), (32, 2), (34, 40)):
        q = rng.standard_normal((num_tokens, 6, head_size)).astype(np.float32)
        k, v = (rng.standard_normal((num_tokens, 3, head_size)).astype(np.float32) for _ in "kv")
        rotated_q, rotated_k = cache.store(position, q, k, v)
        pairs = head_size // 2
        turned = [naive.rotate(x, position, pairs) for x in (q, k)]
        if types[0] == "q4_0":
            turned = [naive.spread(x) for x in turned]
        np.testing.assert_allclose(rotated_q, turned[0], 0, 2e-6)
        np.testing.assert_allclose(rotated_k, turned[1], 0, 2e-6)
        rows.append((rotated_k, v))
    stored = (cache.stored_keys(), cache.stored_values())
    for kind, given, found in zip(types, zip(*rows, strict=True), stored, strict=True):
        expected = naive.as_cached(kind, np.concatenate(given).swapaxes(0, 1))
        np.testing.assert_array_equal(found[:, :74], expected)
        assert not np.isfinite(found[:, 74:]).any() or "_" in kind


@pytest.mark.parametrize("types", PAIRS, ids=pair_name)
def test_rope(runner: KernelRunner, types: tuple[str, str]) -> None:
    """What is stored elsewhere is turned to the same bits."""
    cache = CacheRunner(runner, types, 96, kv_heads=3, group=2, context_length=75, pairs=30)
    rng = np.random.default_rng(0)
    q = rng.standard_normal((40, 6, 96)).astype(np.float32)
    k = rng.standard_normal((40, 3, 96)).astype(np.float32)
    stored = cache.store(7, q, k, k)
    for found, expected in zip(cache.rotate(7, q, k), stored, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", ["q8_0", "q4_0"])
def test_stored_scales_of_hard_blocks(runner: KernelRunner, kind: str) -> None:
    """Blocks of zeros, of one huge number, and of ties are stored as GGUF rounds them."""
    other = {"q8_0": "q8_0", "q4_0": "bf16"}[kind]
    cache = CacheRunner(runner, (other, kind), 64, kv_heads=1, group=1, context_length=8, pairs=0)
    k = np.zeros((8, 1, 64), np.float32)
    k[1, 0, 5] = -60000.0
    k[2, 0, 40] = 1e-6
    k[3, 0] = np.linspace(-8, 7.75, 64)
    k[4, 0] = np.arange(64) * 0.5
    k[5, 0, ::2] = 1.0
    cache.store(0, k, k, k)
    np.testing.assert_array_equal(cache.stored_values()[0, :8], naive.as_cached(kind, k[:, 0]))


def test_neighbours_of_a_stored_position_stay(runner: KernelRunner) -> None:
    """Storing a position changes no bit of another, also where bytes hold two numbers."""
    for types in (("bf16", "q4_0"), ("q4_0", "bf16")):
        cache = CacheRunner(runner, types, 100, kv_heads=2, group=1, context_length=64)
        x = np.random.default_rng(0).standard_normal((64, 2, 100)).astype(np.float32)
        cache.store(0, x, x, x)
        before = [cache.stored_keys(), cache.stored_values()]
        for position in (0, 17, 31, 32, 63):
            cache.store(position, x[:1], -2 * x[:1], -2 * x[:1])
        after = [cache.stored_keys(), cache.stored_values()]
        kept = np.setdiff1d(np.arange(64), [0, 17, 31, 32, 63])
        for old, new in zip(before, after, strict=True):
            np.testing.assert_array_equal(new[:, kept], old[:, kept])
            assert (new[:, [0, 17, 31, 32, 63]] != old[:, [0, 17, 31, 32, 63]]).any((1, 2)).all()


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
        given = stored.astype(np.float16).view(np.uint16)[number]
        np.testing.assert_array_equal(given, expected.copy().view(np.uint16)[number])


def packed_tolerance(types: tuple[str, str], rows: int | str) -> float:
    """What a method may be away from the twin over what is stored."""
    return PACKED_TOLERANCE if rows == "packed" else 3e-6


@pytest.mark.parametrize("types", PAIRS, ids=pair_name)
@pytest.mark.parametrize("head_size", HEAD_SIZES)
def test_head_sizes(runner: KernelRunner, types: tuple[str, str], head_size: int) -> None:
    """Every head size, for one token and for many, before and behind block borders."""
    cache = CacheRunner(runner, types, head_size, kv_heads=2, group=3, context_length=300)
    filled = Filled(cache, 300)
    for position, num_tokens in ((0, 1), (31, 1), (32, 1), (127, 3), (128, 1), (299, 1)):
        filled.check(position, num_tokens)
    for rows in methods(runner.tier, types)[-1:]:
        for position, num_tokens in ((0, 300), (126, 5)):
            filled.check(
                position, num_tokens, packed_tolerance(types, rows), rows, tokens_per_task=7
            )


@pytest.mark.parametrize("group", [1, 2, 5, 8, 12, 17])
def test_groups(runner: KernelRunner, group: int) -> None:
    """Any number of query heads to a key head, also more than one tile takes together."""
    cache = CacheRunner(runner, F16, 64, kv_heads=2, group=group, context_length=140)
    filled = Filled(cache, 140)
    filled.check(139, 1, rows=8)
    filled.check(126, 4, rows=8, tokens_per_task=4)
    filled.check(0, 140, PACKED_TOLERANCE, "packed", tokens_per_task=max(1, 64 // group))


def test_padding_rows(runner: KernelRunner) -> None:
    """A kernel of any number of rows handles tasks whose rows are fewer or do not divide."""
    cache = CacheRunner(runner, F16, 64, kv_heads=1, group=3, context_length=140)
    filled = Filled(cache, 140)
    for rows in methods(runner.tier, F16):
        tolerance = packed_tolerance(F16, rows)
        for num_tokens, tokens_per_task in ((1, 1), (5, 2), (13, 7)):
            filled.check(127, num_tokens, tolerance, rows, tokens_per_task=tokens_per_task)


@pytest.mark.parametrize("types", PAIRS, ids=pair_name)
def test_every_position_across_key_blocks(runner: KernelRunner, types: tuple[str, str]) -> None:
    """One token at each position from 0 to past two key blocks sees exactly the keys before it."""
    length = 2 * ATTENTION_KEYS + 3
    cache = CacheRunner(runner, types, 20, kv_heads=1, group=2, context_length=length)
    filled = Filled(cache, length, spread=3.0)
    for position in range(length):
        filled.check(position, 1)
    if "packed" in methods(runner.tier, types):
        for position in range(0, length, 5):
            filled.check(position, min(2, length - position), 3 * PACKED_TOLERANCE, "packed")


def test_packed_outliers(runner: KernelRunner) -> None:
    """Elements and values that outdo all others many times cost packed integers little."""
    cache = CacheRunner(runner, F16, 64, kv_heads=1, group=4, context_length=260, pairs=0)
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((260, heads, 64)).astype(np.float32) for heads in (4, 1, 1))
    k[:, :, 7] *= 20
    q[:, :, 7] *= 0.1
    v[:, :, 3] *= 50
    v[17] *= 10
    cache.store(0, q, k, v)
    y = cache.attend(0, q, rows="packed", tokens_per_task=16)
    expected = naive.attention(q, cache.stored_keys(), cache.stored_values(), 0)
    spread = cache.stored_values()[:, :260].std(1)
    assert (np.abs(y - expected) / spread).max() < 5 * PACKED_TOLERANCE


def test_packed_zeros(runner: KernelRunner) -> None:
    """Queries, keys or values of nothing but zeros give means, or zeros, and no infinities."""
    cache = CacheRunner(runner, F16, 64, kv_heads=1, group=1, context_length=40, pairs=0)
    halves = np.random.default_rng(0).standard_normal((40, 1, 64)).astype(np.float16)
    x = halves.astype(np.float32)
    zeros = np.zeros_like(x)
    means = x.cumsum(0) / np.arange(1, 41)[:, None, None]
    for q, k, v, expected in ((zeros, x, x, means), (x, zeros, x, means), (x, x, zeros, zeros)):
        cache.store(0, q, k, v)
        y = cache.attend(0, q, rows="packed", tokens_per_task=16)
        np.testing.assert_allclose(y, expected, 0, PACKED_TOLERANCE)


@pytest.mark.parametrize("split_keys", [128, 256])
def test_split_keys(runner: KernelRunner, split_keys: int) -> None:
    """Parts of the keys, merged, give what all keys at once do, by the same bits on any threads."""
    cache = CacheRunner(runner, ("q8_0", "q8_0"), 100, kv_heads=1, group=5, context_length=700)
    filled = Filled(cache, 700, spread=4.0)
    for position, num_tokens in ((127, 2), (254, 4), (511, 3), (696, 4)):
        options = {"split_keys": split_keys, "tokens_per_task": 4}
        filled.check(position, num_tokens, **options)
        q = np.ascontiguousarray(filled.rotated_q[position : position + num_tokens])
        one, two, three = (
            cache.attend(position, q, rows=3, num_threads=n, **options) for n in (1, 2, 3)
        )
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one, three)
        alone = [
            cache.attend(position + i, q[i : i + 1], rows=3, **options) for i in range(num_tokens)
        ]
        np.testing.assert_array_equal(one, np.concatenate(alone))


@pytest.mark.parametrize("types", [F16, ("q8_0", "q8_0"), ("f32", "f32")], ids=pair_name)
@pytest.mark.parametrize("window", [1, 128, 129, 1000])
def test_windows(runner: KernelRunner, types: tuple[str, str], window: int) -> None:
    """A token sees the last keys of its window alone, in one part or several, in every method."""
    cache = CacheRunner(runner, types, 64, kv_heads=2, group=3, context_length=520)
    filled = Filled(cache, 520)
    for position, num_tokens in ((0, 1), (127, 3), (128, 1), (257, 12), (519, 1)):
        for split_keys in (None, 128, 256):
            options = {} if split_keys is None else {"split_keys": split_keys}
            filled.check(position, num_tokens, window=window, tokens_per_task=12, **options)
    rows = methods(runner.tier, types)[-1]
    tolerance = 3e-6 if rows != "packed" else 3 * PACKED_TOLERANCE
    for position, num_tokens in ((0, 520), (100, 300), (250, 13)):
        filled.check(position, num_tokens, tolerance, rows, window=window, tokens_per_task=40)


@pytest.mark.parametrize("split_keys", [None, 128])
@pytest.mark.parametrize("window", [None, 150])
def test_segments(runner: KernelRunner, split_keys: int | None, window: int | None) -> None:
    """Segments of any lengths in one step have the bits that each of them has alone."""
    cache = CacheRunner(runner, F16, 64, kv_heads=2, group=3, context_length=520, window=window)
    filled = Filled(cache, 520)
    options = {"tokens_per_task": 12, "split_keys": split_keys}
    parts = [(0, 1), (127, 2), (511, 1), (128, 1), (5, 40), (255, 3), (0, 12), (384, 136)]
    for chosen in (parts, parts[::-1], parts[2:3], parts[1:4] * 40):
        queries = [filled.rotated_q[position : position + count] for position, count in chosen]
        together = cache.attend_segments(
            chosen, np.concatenate(queries), rows=3, num_threads=3, **options
        )
        alone = [
            cache.attend(position, np.ascontiguousarray(q), rows=3, **options)
            for (position, _), q in zip(chosen, queries, strict=True)
        ]
        np.testing.assert_array_equal(together, np.concatenate(alone))


@pytest.mark.parametrize("spread", [30.0, 300.0])
def test_large_scores(runner: KernelRunner, spread: float) -> None:
    """Scores far apart, whose running maximum jumps between key blocks, stay exact."""
    cache = CacheRunner(runner, "f32", 64, kv_heads=1, group=4, context_length=400)
    filled = Filled(cache, 400, spread)
    tolerance = 2e-6 * spread
    filled.check(0, 400, tolerance, 8, tokens_per_task=8)
    filled.check(399, 1, tolerance)


def test_rising_scores(runner: KernelRunner) -> None:
    """When every later key outdoes all before it, the last one alone is returned."""
    cache = CacheRunner(runner, "f32", 4, kv_heads=1, group=1, context_length=300, pairs=0)
    k = np.arange(300, dtype=np.float32)[:, None, None] * np.ones((1, 1, 4), np.float32)
    v = np.random.default_rng(0).standard_normal((300, 1, 4)).astype(np.float32)
    cache.store(0, np.ones((300, 1, 4), np.float32), k, v)
    q = np.full((1, 1, 4), 50.0, np.float32)
    np.testing.assert_array_equal(cache.attend(299, q, rows=3)[0], v[299])


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
    alone = np.concatenate([cache.attend(196 + i, q[i : i + 1], rows=3) for i in range(4)])
    together = cache.attend(196, q, num_threads=3, rows=3, tokens_per_task=4)
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(cache.attend(196, q[:2].copy(), num_threads=1, rows=3), alone[:2])
    packed = [
        cache.attend(0, filled.rotated_q, rows="packed", tokens_per_task=21, num_threads=n)
        for n in (1, 2, 3)
    ]
    np.testing.assert_array_equal(packed[0], packed[1])
    np.testing.assert_array_equal(packed[0], packed[2])


def test_rewritten_positions(runner: KernelRunner) -> None:
    """Tokens stored again at earlier positions replace what was there."""
    cache = CacheRunner(runner, "f16", 64, kv_heads=1, group=2, context_length=80)
    filled = Filled(cache, 80)
    cache.store(30, filled.q[:20], filled.k[:20] + 1, filled.v[:20] - 1)
    expected = filled.v.astype(np.float16)
    expected[30:50] = (filled.v[:20] - 1).astype(np.float16)
    np.testing.assert_array_equal(cache.stored_values()[0, :80], expected[:, 0])
    filled.check(49, 1)
