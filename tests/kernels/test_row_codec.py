"""RowCodec's formats without a search: bit for bit the ``gguf`` package, whoever calls."""

from __future__ import annotations

import functools
import itertools
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants
from harness.kernels import TIERS, tier_name
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellama.kernels_cpu.machine.cpu import Tier
from edgellama.kernels_cpu.quantizers.row_codec import ErrorSums, RowCodec
from edgellama.quant.errors import KernelError, ModelFileError
from edgellama.quant.formats import (
    FLOAT_FORMATS,
    FORMATS_BY_NAME,
    QUANTIZED_FORMATS,
    WRITABLE_FORMATS,
)

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
EXACT_FORMATS = tuple(
    name for name in WRITABLE_FORMATS if FORMATS_BY_NAME[name].writers[0] in ("copy", "round")
)
EXPANDABLE = tuple(name for name in EXACT_FORMATS if name in FLOAT_FORMATS + QUANTIZED_FORMATS)
SIZES = (1.0, 1e-45, 1e-40, 1e-38, 3e-38, 1e-6, 1e4, 1e30, 7e37)


@functools.cache
def codec_of(tier: Tier) -> RowCodec:
    """One codec a tier, compiled in one go."""
    codec = RowCodec(tier.name)
    codec.prepare(EXACT_FORMATS, EXPANDABLE)
    return codec


@pytest.fixture(scope="module", params=TIERS, ids=tier_name)
def codec(request: pytest.FixtureRequest) -> RowCodec:
    """The codec of each tier in turn."""
    return codec_of(request.param)


def quantized(codec: RowCodec, name: str, rows: Array) -> Array:
    """``rows`` in a format."""
    out = np.full((len(rows), FORMATS_BY_NAME[name].row_bytes(rows.shape[1])), 0xA5, np.uint8)
    codec.quantize(rows, name, out)
    return out


def expanded(codec: RowCodec, name: str, data: Array, num_columns: int) -> Array:
    """``data`` as f32."""
    out = np.full((len(data), num_columns), np.nan, np.float32)
    codec.expand(data, name, out)
    return out


def by_gguf(name: str, rows: Array) -> Array:
    """What the ``gguf`` package makes of ``rows``."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return quants.quantize(rows, GGMLQuantizationType[name]).view(np.uint8)


def awkward_rows(num_rows: int, num_columns: int, size: float) -> Array:
    """Noise, and at its start ties of rounding and of magnitude, steps, zeros of both signs."""
    rng = np.random.default_rng(num_rows)
    rows = np.array(rng.standard_normal((num_rows, num_columns)) * size, np.float32)
    steps = np.arange(32, dtype=np.float32)
    special = (
        0 * steps, -0.0 * steps, steps, steps - 15.5, (steps - 16) / 2, np.sign(15.5 - steps),
        127 * np.sign(steps % 3 - 1), np.full(32, -3.0), np.where(steps == 7, 127, steps - 0.5),
    )  # fmt: skip
    for row, values in zip(rows, special, strict=False):
        row[:32] = values
    return rows


@pytest.mark.parametrize("name", EXACT_FORMATS)
@pytest.mark.parametrize("size", SIZES)
def test_bits_of_the_gguf_package(codec: RowCodec, name: str, size: float) -> None:
    """Every byte equals the gguf package's: normal, denormal and huge numbers, ties, zeros."""
    rows = awkward_rows(13, 96, size)
    np.testing.assert_array_equal(quantized(codec, name, rows), by_gguf(name, rows))


@pytest.mark.parametrize("name", ["F16", "BF16"])
@pytest.mark.parametrize("num_columns", [1, 31, 33, 100])
def test_float_rows_of_any_width(codec: RowCodec, name: str, num_columns: int) -> None:
    """Rows that are no whole vectors are converted to their end, both ways."""
    rows = awkward_rows(3, 160, 1.0)[:, :num_columns].copy()
    data = quantized(codec, name, rows)
    np.testing.assert_array_equal(data, by_gguf(name, rows))
    again = expanded(codec, name, data, num_columns)
    np.testing.assert_array_equal(again, quants.dequantize(data, GGMLQuantizationType[name]))


@pytest.mark.parametrize("name", EXPANDABLE)
def test_expanded_as_the_gguf_package_does(codec: RowCodec, name: str) -> None:
    """Expanded rows are the gguf package's but for one rounding."""
    rows = awkward_rows(7, 288, 1.0)
    data = by_gguf(name, rows)
    want = quants.dequantize(data, GGMLQuantizationType[name])
    np.testing.assert_allclose(expanded(codec, name, data, 288), want, 1e-6, 1e-6)


@pytest.mark.parametrize("name", EXACT_FORMATS)
def test_not_finite(codec: RowCodec, name: str) -> None:
    """Infinities and NaN neither crash nor touch the blocks beside theirs."""
    rows = awkward_rows(6, 96, 1.0)
    clean = quantized(codec, name, rows)
    rows[2, 40], rows[3, 33:64:2], rows[4, 32:64] = np.nan, np.inf, -np.inf
    soiled = quantized(codec, name, rows)
    third = clean.shape[1] // 3
    np.testing.assert_array_equal(soiled[:, :third], clean[:, :third])
    np.testing.assert_array_equal(soiled[:, 2 * third :], clean[:, 2 * third :])


NUMBERS = st.floats(-1e4, 1e4, width=32)


@given(st.lists(NUMBERS, min_size=64, max_size=64), st.sampled_from(EXPANDABLE))
@settings(max_examples=100, deadline=None)
def test_quantizing_twice(values: list[float], name: str) -> None:
    """What was quantized is kept exactly the second time, where no minimum is rounded as well."""
    codec = codec_of(TIERS[0])
    once = expanded(codec, name, quantized(codec, name, np.array([values], np.float32)), 64)
    twice = expanded(codec, name, quantized(codec, name, once), 64)
    if name in ("Q4_1", "Q5_1"):
        size = np.abs(once).reshape(2, 32).max(-1).repeat(32) + 1e-6
        assert (np.abs(twice - once)[0] <= 2e-3 * size).all()
    else:
        np.testing.assert_array_equal(twice, once)


def test_threads_and_chunks(codec: RowCodec) -> None:
    """Chunks of any size on several threads at once give the bytes of one call."""
    rows = awkward_rows(61, 192, 1.0)
    for name in EXACT_FORMATS:
        want = quantized(codec, name, rows)
        out = np.zeros_like(want)
        cuts = [0, 1, 2, 5, 6, 20, 33, 60, 61]
        with ThreadPoolExecutor(4) as pool:
            done = [
                pool.submit(codec.quantize, rows[first:last], name, out[first:last])
                for first, last in itertools.pairwise(cuts)
            ]
        assert [job.result() for job in done] == [None] * len(done)
        np.testing.assert_array_equal(out, want)


def test_first_use_from_many_threads() -> None:
    """Threads that all need a kernel that is not loaded yet wait for one loading of it."""
    codec, rows = RowCodec(TIERS[-1].name), awkward_rows(8, 64, 1.0)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: quantized(codec, "Q8_0", rows), range(8)))
    assert all((result == by_gguf("Q8_0", rows)).all() for result in results)


@pytest.mark.parametrize("num_columns", [1, 32, 37, 256])
def test_measure(codec: RowCodec, num_columns: int) -> None:
    """Errors are the twin's at double precision, and join over chunks of rows."""
    rows = awkward_rows(9, 288, 1.0)[:, :num_columns].copy()
    restored = rows + np.random.default_rng(1).normal(0, 0.01, rows.shape).astype(np.float32)
    restored[3, 0] += 1.0
    found = codec.measure(rows, restored)
    errors = (rows - restored).astype(np.float64) ** 2
    blocks = [errors[:, i : i + 32].mean(-1).max() for i in range(0, num_columns, 32)]
    assert found.squared_error == pytest.approx(errors.sum(), rel=1e-6)
    assert found.squared_values == pytest.approx((rows.astype(np.float64) ** 2).sum(), rel=1e-6)
    assert found.worst_block_error == pytest.approx(np.sqrt(max(blocks)), rel=1e-6)
    assert found.num_not_finite == 0
    joined = codec.measure(rows[:4], restored[:4]) + codec.measure(rows[4:], restored[4:])
    assert joined.squared_error == pytest.approx(found.squared_error, rel=1e-14)
    assert joined.worst_block_error == found.worst_block_error


def test_measure_counts_what_is_not_finite(codec: RowCodec) -> None:
    """Infinities and NaN among the original numbers are counted, wherever they stand."""
    rows = np.ones((4, 70), np.float32)
    rows[0, 0], rows[1, 31], rows[2, 69], rows[3, 64] = np.nan, np.inf, -np.inf, np.nan
    assert codec.measure(rows, np.ones_like(rows)).num_not_finite == 4


def test_no_rows(codec: RowCodec) -> None:
    """A chunk without rows is no error."""
    nothing = np.zeros((0, 64), np.float32)
    assert quantized(codec, "Q8_0", nothing).shape == (0, 68)
    assert codec.measure(nothing, nothing) == ErrorSums(0.0, 0.0, 0.0, 0)


def test_what_does_not_fit_is_refused(codec: RowCodec) -> None:
    """Arrays of a wrong type, shape or order, and unknown formats, never reach a kernel."""
    rows, out = np.zeros((4, 64), np.float32), np.zeros((4, 68), np.uint8)
    for bad_rows, bad_out in (
        (rows.astype(np.float64), out),
        (rows, out[:, :67]),
        (rows, out[:3]),
        (np.zeros((4, 128), np.float32)[:, ::2], out),
        (rows[0], out),
        (rows, out.view(np.int8)),
    ):
        with pytest.raises(KernelError, match="allowed"):
            codec.quantize(bad_rows, "Q8_0", bad_out)
    with pytest.raises(KernelError, match="importance"):
        codec.quantize(rows, "Q8_0", out, np.zeros(63, np.float32))
    with pytest.raises(KernelError, match="cannot be quantized to NVFP4; allowed: F32"):
        codec.quantize(rows, "NVFP4", out)
    with pytest.raises(KernelError, match="NVFP4 cannot be expanded"):
        codec.expand(out, "NVFP4", rows)
    with pytest.raises(ModelFileError, match="multiples of 32"):
        codec.quantize(np.zeros((4, 65), np.float32), "Q8_0", out)
