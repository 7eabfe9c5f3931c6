"""The kernel that chooses tokens: on every tier the token that the pure filters choose, or none."""

from __future__ import annotations

import functools
import math
from typing import Any, TypeAlias

import numpy as np
import pytest
from harness.kernels import TIERS, tier_name
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellama.kernels_cpu.compiling.code_cache import CompiledKernels
from edgellama.kernels_cpu.machine.cpu import Tier
from edgellama.kernels_cpu.sampling.chooser import TokenChooser
from edgellama.quant.errors import EdgellamaError
from edgellama.sampling.options import SamplingOptions
from edgellama.sampling.sampler import Sampler

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
SIZES = (1, 2, 40, 63, 64, 65, 128, 1000, 4096, 5123)
KEEP_ALL: Any = {"top_k": 0, "top_p": 1.0, "min_p_distance": -math.inf, "temperature": 1.0}


@functools.cache
def kernels_of(tier: Tier) -> CompiledKernels:
    """One set of compiled code a tier."""
    return CompiledKernels(tier)


@pytest.fixture(scope="module", params=TIERS, ids=tier_name)
def kernels(request: pytest.FixtureRequest) -> CompiledKernels:
    """The compiled code of each tier in turn."""
    return kernels_of(request.param)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Array, dict[str, Any], float]:
    """Logits with ties and masked tokens, filters at their edges and within, a fraction."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    size = draw(st.sampled_from(SIZES))
    logits = rng.normal(0, draw(st.sampled_from([0.0, 0.01, 1.0, 8.0, 1e30])), size)
    if draw(st.booleans()):
        logits = np.round(logits)
    if draw(st.booleans()):
        logits[rng.random(size) < 0.5] = -np.inf
        logits[rng.integers(size)] = 1.0
    wanted = {
        "top_k": draw(st.sampled_from([0, 1, 2, 40, 200, size, size + 1])),
        "top_p": draw(st.sampled_from([1.0, 1e-9, 0.3, 0.95, 0.999])),
        "min_p": draw(st.sampled_from([0.0, 1e-6, 0.05, 1.0])),
        "temperature": draw(st.sampled_from([0.01, 0.8, 1.0, 100.0])),
    }
    return logits.astype(np.float32), wanted, float(rng.random())


def naive_token(logits: Array, wanted: dict[str, Any], fraction: float) -> int:
    """The token by sorting everything, in the plainest words."""
    order = np.argsort(-logits, kind="stable")
    if wanted["top_k"]:
        order = order[: wanted["top_k"]]
    if wanted["top_p"] < 1:
        weights = np.exp(logits[order] - logits[order[0]]).astype(np.float64)
        total = np.cumsum(weights)
        order = order[: int(np.argmax(total >= wanted["top_p"] * total[-1])) + 1]
    if wanted["min_p"]:
        limit = np.float32(logits[order[0]] + np.float32(math.log(wanted["min_p"])))
        order = order[logits[order] >= limit]
    tokens = np.sort(order)
    below = (logits[tokens] - logits[tokens].max()) / np.float32(wanted["temperature"])
    running = np.cumsum(np.exp(below), dtype=np.float64)
    return int(tokens[np.argmax(running > fraction * running[-1])])


def chooser_of(kernels: CompiledKernels, wanted: dict[str, Any]) -> TokenChooser:
    """The kernel, asked for the filters ``wanted``."""
    settings = dict(wanted)
    min_p = settings.pop("min_p")
    return TokenChooser(kernels, min_p_distance=math.log(min_p) if min_p else -math.inf, **settings)


@settings(deadline=None, max_examples=60)
@given(cases())
def test_the_kernel_chooses_what_the_filters_do(
    kernels: CompiledKernels, case: tuple[Array, dict[str, Any], float]
) -> None:
    """The token is that of a plain sort, or left to the filters."""
    logits, wanted, fraction = case
    token = chooser_of(kernels, wanted).choose(logits, fraction)
    assert token in (None, naive_token(logits, wanted, fraction))


@pytest.mark.parametrize("top_p", [1.0, 0.9])
@pytest.mark.parametrize("top_k", [0, 40, 300])
def test_few_choices_are_left_to_the_filters(
    kernels: CompiledKernels, top_k: int, top_p: float
) -> None:
    """Among 20,000 logits spread like a text's the kernel decides nine in ten and more."""
    rng = np.random.default_rng(0)
    wanted = {"top_k": top_k, "top_p": top_p, "min_p": 0.0, "temperature": 0.8}
    chooser = chooser_of(kernels, wanted)
    undecided = 0
    for _ in range(50):
        logits = rng.gumbel(0, 3.0, 20_000).astype(np.float32)
        fraction = float(rng.random())
        token = chooser.choose(logits, fraction)
        undecided += token is None
        assert token in (None, naive_token(logits, wanted, fraction))
    assert undecided <= 5


def test_what_rounding_could_decide_is_left_open(kernels: CompiledKernels) -> None:
    """On the edge between two tokens, and of top-p between equals, the kernel takes neither."""
    logits = np.zeros(4, np.float32)
    assert TokenChooser(kernels, **KEEP_ALL).choose(logits, 0.5) is None
    half = TokenChooser(kernels, **KEEP_ALL | {"top_p": 0.5})
    assert half.choose(logits, 0.1) is None
    assert TokenChooser(kernels, **KEEP_ALL).choose(logits, 0.6) == 2


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("place", [0, 70, 99])
def test_damaged_logits_are_reported(kernels: CompiledKernels, bad: float, place: int) -> None:
    """A logit that is no number, wherever it is, or infinite raises an error."""
    logits = np.zeros(100, np.float32)
    logits[place] = bad
    with pytest.raises(EdgellamaError, match="damaged"):
        Sampler(SamplingOptions(), kernels)(logits, [])


@settings(deadline=None, max_examples=30)
@given(cases(), st.integers(0, 2**32), st.sampled_from([1.0, 1.3]))
def test_samplers_with_and_without_the_kernel_agree(
    kernels: CompiledKernels,
    case: tuple[Array, dict[str, Any], float],
    seed: int,
    repeat_penalty: float,
) -> None:
    """With one seed, both give the same tokens."""
    logits, wanted, _ = case
    options = SamplingOptions(seed=seed, repeat_penalty=repeat_penalty, **wanted)
    samplers = Sampler(options), Sampler(options, kernels)
    chosen: tuple[list[int], list[int]] = [], []
    for _ in range(6):
        for sampler, tokens in zip(samplers, chosen, strict=True):
            tokens.append(sampler(logits, tokens))
    assert chosen[0] == chosen[1]


def test_sizes_may_change_and_nothing_is_written(kernels: CompiledKernels) -> None:
    """One chooser takes rows of any length, strided ones too, and leaves them as they are."""
    chooser = TokenChooser(kernels, **KEEP_ALL)
    for size in (5000, 3, 130):
        logits = np.full((size, 2), -50.0)
        logits[size - 1] = 9.0
        before = logits.copy()
        assert chooser.choose(logits[:, 0], 0.5) == size - 1
        np.testing.assert_array_equal(logits, before)
