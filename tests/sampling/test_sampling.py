"""Laws of the sampling filters and of the samplers composed from them."""

import math
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellama.quant.errors import EdgellamaError, InvalidOptionError
from edgellama.sampling.filters import (
    SORTABLE,
    draw,
    greedy,
    keep_min_p,
    keep_top_k,
    keep_top_p,
)
from edgellama.sampling.options import SamplingOptions
from edgellama.sampling.penalties import SeenTokens, penalize_seen
from edgellama.sampling.sampler import Sampler

Logits = npt.NDArray[np.float32]
SIZES = (1, 2, 40, SORTABLE, SORTABLE + 1, 5 * SORTABLE + 3)
UNFILTERED: Any = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}


@st.composite
def logits_of_any_kind(draw_value: st.DrawFn) -> Logits:
    """Logits of several sizes: spread out, flat, with many equals, with masked tokens.

    Some are so near to zero that their differences from a large one are equal in f32.
    """
    generator = np.random.default_rng(draw_value(st.integers(0, 2**32)))
    size = draw_value(st.sampled_from(SIZES))
    spreads = st.sampled_from([0.0, 1e-41, 1e-8, 0.01, 1.0, 8.0, 1e30])
    values = generator.normal(0, draw_value(spreads), size)
    if draw_value(st.booleans()):
        values = np.round(values)
    if draw_value(st.booleans()):
        values[generator.integers(size)] = 5.0
    if draw_value(st.booleans()):
        values[generator.random(size) < 0.5] = -np.inf
        values[generator.integers(size)] = 1.0
    return values.astype(np.float32)


def probabilities(logits: Logits) -> npt.NDArray[np.float64]:
    """Softmax in float64."""
    weights = np.exp(logits.astype(np.float64) - float(logits.max()))
    normalized: npt.NDArray[np.float64] = weights / weights.sum()
    return normalized


@settings(deadline=None)
@given(logits_of_any_kind(), st.integers(1, 3 * SORTABLE))
def test_top_k_keeps_the_k_largest(logits: Logits, k: int) -> None:
    """Exactly min(k, size) tokens stay: those that a stable sort of all logits puts first."""
    expected = np.sort(np.argsort(-logits, kind="stable")[:k])
    np.testing.assert_array_equal(keep_top_k(logits, k), expected)


@pytest.mark.filterwarnings("error")
@settings(deadline=None)
@given(logits_of_any_kind(), st.floats(0.01, 0.999))
def test_top_p_keeps_the_smallest_set_of_that_mass(logits: Logits, top_p: float) -> None:
    """The kept tokens are the largest, reach the mass, and without the smallest do not."""
    kept = keep_top_p(logits, top_p)
    chances = probabilities(logits)
    assert len(kept) >= 1
    assert (np.diff(kept) > 0).all()
    np.testing.assert_array_equal(np.sort(logits[kept]), np.sort(logits)[-len(kept) :])
    mass, smallest = float(chances[kept].sum()), float(chances[kept].min())
    assert mass >= top_p - 1e-5
    assert mass - smallest <= top_p + 1e-5


@settings(deadline=None)
@given(logits_of_any_kind(), st.floats(0.0, 1.0))
def test_min_p_keeps_tokens_above_the_threshold(logits: Logits, min_p: float) -> None:
    """A token stays if its probability is min_p times the largest one or more."""
    kept = np.isin(np.arange(len(logits)), keep_min_p(logits, min_p))
    chances = probabilities(logits)
    threshold = min_p * chances.max()
    assert kept[int(logits.argmax())]
    assert kept[chances > threshold * (1 + 1e-5)].all()
    assert not kept[chances < threshold * (1 - 1e-5)].any()


@settings(deadline=None)
@given(logits_of_any_kind(), st.integers(0, 100), st.floats(0.1, 1.0), st.floats(0.0, 1.0))
def test_temperature_zero_is_argmax(logits: Logits, top_k: int, top_p: float, min_p: float) -> None:
    """At temperature 0 the likeliest token is taken, whatever the filters are."""
    options = SamplingOptions(temperature=0, top_k=top_k, top_p=top_p, min_p=min_p)
    assert Sampler(options)(logits, []) == greedy(logits) == int(np.argmax(logits))


@settings(deadline=None)
@given(logits_of_any_kind(), st.integers(1, 50), st.floats(0.1, 1.0), st.floats(0.0, 1.0))
def test_a_sample_passes_every_filter(
    logits: Logits, top_k: int, top_p: float, min_p: float
) -> None:
    """A sampled token is among those that top-k, then top-p, then min-p keep."""
    kept = keep_top_k(logits, top_k)
    if top_p < 1:
        kept = kept[keep_top_p(logits[kept], top_p)]
    kept = kept[keep_min_p(logits[kept], min_p)]
    sampler = Sampler(SamplingOptions(top_k=top_k, top_p=top_p, min_p=min_p, seed=1))
    for _ in range(5):
        token = sampler(logits, [])
        assert token in kept
        assert logits[token] > -np.inf


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_logits_of_any_float_in_any_layout(dtype: Any) -> None:
    """Strided logits of another type choose the same token as the same numbers in f32."""
    values = np.random.default_rng(0).normal(0, 3, 5000).astype(np.float16)
    for options in (SamplingOptions(seed=3), SamplingOptions(temperature=0)):
        strided = np.repeat(values.astype(dtype), 2)[::2]
        expected = Sampler(options)(values.astype(np.float32), [])
        assert Sampler(options)(strided, []) == expected


@settings(deadline=None)
@given(logits_of_any_kind(), st.integers(0, 2**64))
def test_the_same_seed_gives_the_same_tokens(logits: Logits, seed: int) -> None:
    """Two samplers with one seed choose the same tokens."""
    options = SamplingOptions(temperature=1.5, seed=seed)
    first, second = Sampler(options), Sampler(options)
    assert [first(logits, []) for _ in range(5)] == [second(logits, []) for _ in range(5)]


def test_different_seeds_differ() -> None:
    """Seeds matter, and no seed is not a fixed seed."""
    logits = np.zeros(100_000, dtype=np.float32)
    seeds = (1, 2, None, None)
    samplers = [Sampler(SamplingOptions(seed=seed, **UNFILTERED)) for seed in seeds]
    assert len({tuple(sampler(logits, []) for _ in range(4)) for sampler in samplers}) == 4


def test_samples_follow_the_distribution() -> None:
    """Frequencies of many samples match softmax(logits / temperature)."""
    logits = np.array([2.0, 1.0, 0.0, -1.0], dtype=np.float32)
    sampler = Sampler(SamplingOptions(temperature=0.5, seed=7, **UNFILTERED))
    counts = np.bincount([sampler(logits, []) for _ in range(20_000)], minlength=4)
    np.testing.assert_allclose(counts / 20_000, probabilities(logits * 2), atol=0.01)


def test_high_temperature_flattens() -> None:
    """A very high temperature makes all kept tokens about equally likely."""
    logits = np.array([5.0, 0.0, -5.0], dtype=np.float32)
    sampler = Sampler(SamplingOptions(temperature=1e6, seed=7, **UNFILTERED))
    counts = np.bincount([sampler(logits, []) for _ in range(9_000)], minlength=3)
    np.testing.assert_allclose(counts / 9_000, 1 / 3, atol=0.03)


def test_a_token_of_no_probability_is_never_drawn() -> None:
    """The largest random number still falls on a token with some probability."""
    logits = np.array([0.0, 0.0, 0.0, -np.inf], dtype=np.float32)
    assert draw(logits, 1.0, math.nextafter(1.0, 0.0)) == 2


@settings(deadline=None)
@given(
    st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=30), st.floats(1.01, 3), st.data()
)
def test_penalty_always_weakens(values: list[float], penalty: float, data: st.DataObject) -> None:
    """A recent token's logit falls, once however often it came; other logits stay; no write."""
    logits = np.array(values, dtype=np.float32)
    recent = data.draw(st.lists(st.integers(0, len(values) - 1), max_size=10))
    before = logits.copy()
    places = np.array(sorted(set(recent)), np.intp)
    weakened = penalize_seen(logits, places, np.ones_like(places), repeat=penalty)
    np.testing.assert_array_equal(logits, before)
    for token, value in enumerate(before):
        expected = value
        if token in recent:
            expected = value / penalty if value > 0 else value * penalty
            assert weakened[token] < value or abs(value) < 1e-30
        assert weakened[token] == pytest.approx(expected, rel=1e-5, abs=1e-30)


def test_growing_history_is_followed() -> None:
    """Tokens are counted in the whole history or its end, as it grows and after it was cut."""
    for last_n in (-1, 2):
        seen = SeenTokens({7})
        for history in ([3, 5, 3, 7], [3, 5, 3, 7, 8, 5], [3], [3, 4, 4]):
            window = history if last_n < 0 else history[-last_n:]
            assert seen.of(history, last_n) == Counter(t for t in window if t != 7)


@pytest.mark.parametrize(
    ("last_n", "expected"), [(0, 0), (1, 0), (2, 1), (-1, 1)], ids=["off", "one", "two", "all"]
)
def test_penalty_window(last_n: int, expected: int) -> None:
    """Only the last repeat_last_n tokens are weakened; -1 means all of them."""
    options = SamplingOptions(temperature=0, repeat_penalty=2.0, repeat_last_n=last_n)
    logits = np.array([1.0, 0.9, 0.1], dtype=np.float32)
    assert Sampler(options)(logits, [0, 2]) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.inf),
        ("temperature", math.nan),
        ("temperature", 1e300),
        ("repeat_penalty", 1e-300),
        ("temperature", "1"),
        ("top_k", -1),
        ("top_k", 1.5),
        ("top_k", True),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("repeat_penalty", 0.0),
        ("repeat_last_n", -2),
        ("seed", -1),
        ("seed", 1.0),
    ],
)
def test_options_outside_their_ranges_are_refused(name: str, value: Any) -> None:
    """The error names the option, the value and what is allowed."""
    with pytest.raises(InvalidOptionError, match=rf"{name} is .*allowed: "):
        SamplingOptions(**{name: value})


def test_numpy_numbers_are_options() -> None:
    """NumPy scalars are accepted where Python's numbers are."""
    options = SamplingOptions(temperature=np.float32(0.5), top_k=np.int64(3), seed=np.uint32(1))  # type: ignore[arg-type]
    assert Sampler(options)(np.array([0, 50], dtype=np.float32), []) == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_damaged_logits_are_reported(bad: float, temperature: float) -> None:
    """Logits that are not numbers raise an error instead of giving a token."""
    logits = np.array([0.0, bad, 1.0], dtype=np.float32)
    with pytest.raises(EdgellamaError, match="damaged"):
        Sampler(SamplingOptions(temperature=temperature))(logits, [])
