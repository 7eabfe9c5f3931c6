"""The kernels along rows against their naive twins: quantize, norm, SwiGLU, bias, heads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from harness import naive_kernels as naive
from harness.kernels import TIERS, KernelRunner, runner_of, tier_name

from edgellama.kernels_cpu.machine.cpu import Tier
from edgellama.kernels_cpu.signatures import LAYOUTS

KERNELS = [
    *(f"{kind}_{form}" for kind in ("rms_norm", "swiglu") for form in LAYOUTS),
    *(f"quantize_{form}" for form in LAYOUTS if form != "float"),
]
ONE_ROUNDING = 1.2e-7


@pytest.fixture(scope="module", params=TIERS, ids=tier_name)
def runner(request: pytest.FixtureRequest) -> Iterator[KernelRunner]:
    """The kernels of each tier in turn, compiled in one go."""
    runner = runner_of(request.param)
    runner.preload(
        [*KERNELS, "add_bias", "arrange_heads", "scale_rows", "scale_tokens", "sum_squares"]
    )
    yield runner


def normal(*shape: int, seed: int = 0) -> naive.Array:
    """Reproducible f32 noise."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def starts(pairs: naive.Array, tier: Tier) -> naive.Array:
    """What integer sums start at, given the quants' sums at the first and last two places."""
    if tier.dot4 == "pairs":
        return (-pairs).astype(np.int16).view(np.int32)[..., 0]
    return -pairs.sum(-1)


def check_in_order(tier: Tier, arrays: dict[str, Any], x: naive.Array) -> None:
    """Quants are the twin's bit for bit, scales but for one rounding; the sums are their own."""
    q, scale = naive.quantize(x)
    np.testing.assert_array_equal(arrays["q"], q)
    np.testing.assert_allclose(arrays["q_scale"], scale, ONE_ROUNDING)
    halves = q.reshape(len(x), -1, 2, 16).sum(-1) * scale[:, :, None].astype(np.float64)
    np.testing.assert_allclose(arrays["q_half_sum"]["scaled"], halves.reshape(len(x), -1), 1e-6)
    magnitude = np.abs(halves).sum(-1)
    assert (np.abs(arrays["q_sum"]["scaled"] - halves.sum(-1)) <= 1e-6 * magnitude).all()
    pairs = q.reshape(len(x), -1, 2, 4, 2, 2).sum((-3, -1))
    np.testing.assert_array_equal(arrays["q_sum"]["start"], starts(pairs.sum(-2), tier))
    halves_of_pairs = pairs.reshape(len(x), -1, 2)
    np.testing.assert_array_equal(arrays["q_half_sum"]["start"], starts(halves_of_pairs, tier))


@pytest.mark.parametrize("width", [32, 64, 96, 288, 1056])
def test_quantize(runner: KernelRunner, width: int) -> None:
    """int8 blocks equal the twin's exactly, ties rounded to even, for 1 to 13 tokens."""
    for num_tokens in (1, 2, 6, 13, 133):
        x = normal(num_tokens, width) * np.float32(10.0)
        x[0, :32] = np.arange(32) + np.float32(0.5)
        x[0, 31] = 127.0
        check_in_order(runner.tier, runner.arrays_in_order(x), x)


@pytest.mark.parametrize("size", [0.0, 1e-45, 1e-38, 1e-30, 1e30, 1e36])
def test_quantize_extremes(runner: KernelRunner, size: float) -> None:
    """Zeros, tiny and huge numbers give finite scales and sums, none of them NaN."""
    x = (np.sign(normal(3, 96)) * np.float32(size)).astype(np.float32)
    x[1, 40:] = 0.0
    arrays = runner.arrays_in_order(x)
    floats = (arrays["q_scale"], arrays["q_sum"]["scaled"], arrays["q_half_sum"]["scaled"])
    assert all(np.isfinite(array).all() for array in floats)
    if size == 0.0 or size >= 1e-30:
        q, scale = naive.quantize(x)
        np.testing.assert_array_equal(arrays["q"], q)
        np.testing.assert_allclose(arrays["q_scale"], scale, ONE_ROUNDING)
    assert np.abs(arrays["q"].astype(np.int32)).max() <= 127


@pytest.mark.parametrize("form", LAYOUTS)
@pytest.mark.parametrize("width", [32, 64, 96, 160, 576, 2048])
def test_rms_norm(runner: KernelRunner, form: str, width: int) -> None:
    """Rows are normed as the twin norms them, and quantized as ``quantize`` would."""
    for num_tokens in (1, 5, 7, 133):
        x, weight = normal(num_tokens, width) * np.float32(3.0), normal(width, seed=1)
        y, quantized = runner.rms_norm(x, weight, 1e-5, form)
        np.testing.assert_allclose(y, naive.rms_norm(x, weight, 1e-5), 2e-6, 1e-30)
        check_form(runner, form, y, quantized)
        if form != "float":
            _, alone = runner.rms_norm(x, weight, 1e-5, form, keep=False)
            check_form(runner, form, y, alone)


def check_form(runner: KernelRunner, form: str, y: naive.Array, quantized: dict[str, Any]) -> None:
    """What a kernel left beside ``y`` is what ``quantize`` makes of ``y``, bit for bit."""
    rows = np.ascontiguousarray(y)
    if form == "records":
        np.testing.assert_array_equal(quantized["q"], runner.records(rows))
    elif form == "in_order":
        expected = runner.arrays_in_order(rows)
        for name, array in expected.items():
            np.testing.assert_array_equal(quantized[name], array)


@pytest.mark.parametrize("width", [4, 12, 20, 36, 60, 100])
def test_rms_norm_of_odd_widths(runner: KernelRunner, width: int) -> None:
    """Widths that are only multiples of four are summed and scaled to their last element."""
    x, weight = normal(3, width), normal(width, seed=1)
    x[:, -1] = 100.0
    y, _ = runner.rms_norm(x, weight, 1e-5)
    np.testing.assert_allclose(y, naive.rms_norm(x, weight, 1e-5), 2e-6, 1e-30)


def test_rms_norm_of_zeros_and_large_rows(runner: KernelRunner) -> None:
    """A row of zeros stays zero; outliers of 1e4 among small numbers keep full precision."""
    x, weight = normal(2, 256), np.ones(256, np.float32)
    x[0] = 0.0
    x[1, 17] = 1e4
    y, _ = runner.rms_norm(x, weight, 1e-5)
    assert not y[0].any()
    np.testing.assert_allclose(y[1], naive.rms_norm(x, weight, 1e-5)[1], 2e-6)


@pytest.mark.parametrize("form", LAYOUTS)
@pytest.mark.parametrize("width", [32, 96, 1024, 1056, 2080])
def test_swiglu(runner: KernelRunner, form: str, width: int) -> None:
    """silu(gate) * up in place, across the segments that tasks are cut into, and quantized."""
    for num_tokens in (1, 3, 7, 133):
        gate, up = normal(num_tokens, width) * np.float32(4.0), normal(num_tokens, width, seed=1)
        y, quantized = runner.swiglu(gate, up, form)
        np.testing.assert_allclose(y, naive.swiglu(gate, up), 1e-6, 1e-30)
        check_form(runner, form, y, quantized)
        if form != "float":
            unread, alone = runner.swiglu(gate, up, form, keep=False)
            np.testing.assert_array_equal(unread, gate)
            check_form(runner, form, y, alone)


@pytest.mark.parametrize("width", [4, 20, 100, 1028])
def test_swiglu_of_odd_widths(runner: KernelRunner, width: int) -> None:
    """Widths that are no whole vectors are computed to their last element."""
    gate, up = normal(2, width), normal(2, width, seed=1)
    y, _ = runner.swiglu(gate, up)
    np.testing.assert_allclose(y, naive.swiglu(gate, up), 1e-6, 1e-30)


def test_exponential(runner: KernelRunner) -> None:
    """exp is accurate to some 1e-7 over its range, and large arguments stay finite."""
    gate = np.linspace(-86.0, 86.0, 16384, dtype=np.float32)[None]
    y, _ = runner.swiglu(gate, np.ones_like(gate))
    expected = naive.swiglu(gate, np.ones_like(gate))
    np.testing.assert_allclose(y, expected, 6e-7)


def test_exponential_at_the_ends(runner: KernelRunner) -> None:
    """Far negative gates give nothing, far positive ones themselves, infinity infinity."""
    gate = np.array([[-1e4, -200, -100, 88, 100, 200, 3e38, np.inf]], np.float32)
    y, _ = runner.swiglu(gate, np.ones_like(gate))
    assert (np.abs(y[0, :3]) < 1e-30).all()
    np.testing.assert_array_equal(y[0, 3:], gate[0, 3:])


def test_nan_stays_visible(runner: KernelRunner) -> None:
    """NaN in a gate or a normed row comes out as NaN rather than as a plausible number."""
    gate = np.full((1, 32), np.nan, np.float32)
    y, _ = runner.swiglu(gate, np.ones_like(gate))
    assert np.isnan(y).all()
    y, _ = runner.rms_norm(gate, np.ones(32, np.float32), 1e-5)
    assert np.isnan(y).all()


@pytest.mark.parametrize("width", [1, 4, 33, 96])
def test_add_bias(runner: KernelRunner, width: int) -> None:
    """The bias is added to every row and nothing else is touched."""
    for num_tokens in (7, 133):
        x, bias = normal(num_tokens, width), normal(width, seed=1)
        np.testing.assert_array_equal(runner.add_bias(x, bias), x + bias)


@pytest.mark.parametrize("is_normed", [False, True])
@pytest.mark.parametrize(
    ("size", "num_pairs"),
    [(4, 2), (12, 6), (64, 32), (64, 0), (80, 40), (100, 50), (128, 64), (128, 32), (96, 5)],
)
def test_arrange_heads(runner: KernelRunner, size: int, num_pairs: int, is_normed: bool) -> None:
    """Heads are normed each by itself, and the halves of what is rotated come in turn."""
    weight = normal(size, seed=1) if is_normed else None
    for num_tokens in (1, 7, 133):
        x = normal(num_tokens, 3, size)
        y = runner.arrange_heads(x, weight, 1e-6, num_pairs)
        expected = naive.arrange_heads(x, weight, 1e-6, num_pairs)
        if is_normed:
            np.testing.assert_allclose(y, expected, 2e-6, 1e-30)
        else:
            np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("width", [4, 32, 36, 96])
@pytest.mark.parametrize("multiple", [1, 6])
def test_scale_rows(runner: KernelRunner, width: int, multiple: int) -> None:
    """Columns are scaled, rows up to the multiple become zero, those behind it stay."""
    for num_tokens in (1, 6, 7, 131):
        x, scales = normal(140, width), normal(1, width, seed=1)[0]
        end = -(-num_tokens // multiple) * multiple
        expected = x.copy()
        expected[:num_tokens] *= scales
        expected[num_tokens:end] = 0
        y = runner.scale_rows(x, scales, num_tokens, multiple)
        np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("width", [4, 36, 96, 132])
def test_scale_tokens(runner: KernelRunner, width: int) -> None:
    """Each row is multiplied with its own number, bit for bit."""
    for num_tokens in (1, 7, 133):
        x, scales = normal(num_tokens, width), normal(1, num_tokens, seed=1)[0]
        np.testing.assert_array_equal(runner.scale_tokens(x, scales), x * scales[:, None])


@pytest.mark.parametrize("width", [4, 36, 96, 128, 132, 1056])
def test_sum_squares(runner: KernelRunner, width: int) -> None:
    """Squares are added up over any number of tokens and on top of what was there."""
    for num_tokens in (1, 5, 512):
        x = normal(num_tokens, width)
        expected = naive.sum_squares(x, 0.5)
        np.testing.assert_allclose(runner.sum_squares(x, 0.5), expected, 3e-6)
        assert np.isnan(runner.sum_squares(x * np.float32(np.nan), 0.0)).all()
