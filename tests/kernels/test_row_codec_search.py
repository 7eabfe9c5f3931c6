"""RowCodec's searched formats: errors not above llama.cpp's, the same bytes whoever calls."""

from __future__ import annotations

import functools
import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants
from harness.kernels import TIERS, tier_name
from hypothesis import given, settings
from hypothesis import strategies as st
from places import DATA
from reference import quantization_errors as sets
from reference.quantization_errors import Array

from edgellama.kernels_cpu.machine.cpu import Tier
from edgellama.kernels_cpu.quantizers.row_codec import RowCodec
from edgellama.quant.formats import FORMATS_BY_NAME

GOLDEN = json.loads((DATA / "llama_cpp_quantization.json").read_text("utf-8"))
SEARCHED = tuple(name for name, f in FORMATS_BY_NAME.items() if f.writers == ("search",))
WITH_IMPORTANCE = tuple(name for name, f in FORMATS_BY_NAME.items() if "search" in f.writers)
CASES = [(name, False) for name in SEARCHED] + [(name, True) for name in WITH_IMPORTANCE]


@functools.cache
def codec_of(tier: Tier) -> RowCodec:
    """One codec a tier, all searches compiled in one go."""
    codec = RowCodec(tier.name)
    codec.prepare(WITH_IMPORTANCE, (), by_importance=WITH_IMPORTANCE)
    return codec


@pytest.fixture(scope="module", params=TIERS, ids=tier_name)
def codec(request: pytest.FixtureRequest) -> RowCodec:
    """The codec of each tier in turn."""
    return codec_of(request.param)


@functools.cache
def row_sets(path: Path) -> dict[str, Array]:
    """The rows that llama.cpp's errors are known for."""
    return dict(sets.row_sets(path))


def quantized(codec: RowCodec, name: str, rows: Array, importance: Array | None = None) -> Array:
    """``rows`` in a format."""
    out = np.full((len(rows), FORMATS_BY_NAME[name].row_bytes(rows.shape[1])), 0xA5, np.uint8)
    codec.quantize(rows, name, out, importance)
    return out


def dequantized(name: str, data: Array) -> Array:
    """Rows as the ``gguf`` package reads them."""
    return quants.dequantize(data, GGMLQuantizationType[name])


def column_weights(num_columns: int) -> Array:
    """Importance for rows of any width."""
    return np.exp(np.random.default_rng(5).normal(0.0, 1.0, num_columns)).astype(np.float32)


@pytest.mark.parametrize(("name", "by_importance"), CASES)
def test_not_worse_than_llama_cpp(smollm2_path: Path, name: str, by_importance: bool) -> None:
    """Weighted errors are at most llama.cpp's; without importance the plain ones are too."""
    importance = sets.column_importance() if by_importance else None
    golden = GOLDEN[f"{name}{' by importance' if by_importance else ''}"]
    for set_name, rows in row_sets(smollm2_path).items():
        data = quantized(codec_of(TIERS[0]), name, rows, importance)
        errors = sets.errors_of(name, rows, data, importance)
        checked = ("weighted", "by_importance") if by_importance else ("plain", "weighted")
        for kind in checked:
            assert errors[kind] <= golden[set_name][kind], (set_name, kind)


@pytest.mark.parametrize("name", WITH_IMPORTANCE)
def test_importance_helps_the_important(smollm2_path: Path, name: str) -> None:
    """With importance the errors that it weighs are smaller than without."""
    importance = sets.column_importance().astype(np.float64)
    for rows in row_sets(smollm2_path).values():
        without, aided = (
            dequantized(name, quantized(codec_of(TIERS[0]), name, rows, given)) - rows
            for given in (None, sets.column_importance())
        )
        assert (importance * aided**2).sum() < 0.98 * (importance * without**2).sum()


def heavy_tailed(num_rows: int, num_columns: int) -> Array:
    """Rows with outliers."""
    return np.random.default_rng(num_rows).standard_t(3, (num_rows, num_columns)).astype(np.float32)


@pytest.mark.parametrize("name", WITH_IMPORTANCE)
def test_tiers_chunks_and_threads(codec: RowCodec, name: str) -> None:
    """Any cutting into rows, on several threads and on any tier, gives the same bytes."""
    rows = heavy_tailed(27, 768)
    for importance in (None, column_weights(768)):
        want = quantized(codec_of(TIERS[0]), name, rows, importance)
        out = np.zeros_like(want)
        cuts = itertools.pairwise([0, 1, 2, 5, 6, 20, 27])
        with ThreadPoolExecutor(4) as pool:
            jobs = [
                pool.submit(codec.quantize, rows[first:last], name, out[first:last], importance)
                for first, last in cuts
            ]
        assert [job.result() for job in jobs] == [None] * len(jobs)
        np.testing.assert_array_equal(out, want)


@pytest.mark.parametrize("name", WITH_IMPORTANCE)
def test_nothing_beside_the_rows_is_written(codec: RowCodec, name: str) -> None:
    """Bytes before and behind the output stay as they were, for any number of blocks."""
    for num_rows in (1, 3, 17):
        rows = heavy_tailed(num_rows, 256)
        num_bytes = num_rows * FORMATS_BY_NAME[name].row_bytes(256)
        memory = np.full(num_bytes + 512, 0xA5, np.uint8)
        out = memory[256 : 256 + num_bytes].reshape(num_rows, -1)
        codec.quantize(rows, name, out, column_weights(256))
        assert (memory[:256] == 0xA5).all() and (memory[256 + num_bytes :] == 0xA5).all()
        np.testing.assert_array_equal(out, quantized(codec, name, rows, column_weights(256)))


@pytest.mark.parametrize("name", SEARCHED)
@pytest.mark.parametrize("size", [1e-38, 1e-12, 1e-4, 1.0, 100.0])
def test_zeros_and_constants(codec: RowCodec, name: str, size: float) -> None:
    """Rows of zeros stay zeros; a number that fills a block is kept, whatever its sign."""
    values = np.array([0.0, -0.0, 1.0, -1.0], np.float32) * np.float32(size)
    rows = np.repeat(values, 512).reshape(4, 512)
    restored = dequantized(name, quantized(codec, name, rows))
    assert not restored[:2].any()
    assert np.abs(restored - rows).max() <= 0.02 * size + 1e-6


@pytest.mark.parametrize("name", WITH_IMPORTANCE)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38, -3e38])
def test_not_finite_or_huge(codec: RowCodec, name: str, bad: float) -> None:
    """Numbers that cannot be stored neither crash nor touch other blocks."""
    rows = heavy_tailed(5, 768)
    for importance in (None, column_weights(768)):
        clean = quantized(codec, name, rows, importance)
        soiled_rows = rows.copy()
        soiled_rows[2, 260:400:7] = bad
        soiled = quantized(codec, name, soiled_rows, importance)
        third = clean.shape[1] // 3
        others = np.ones_like(clean, dtype=bool)
        # By importance a legacy block's weights depend on the mean square of its row.
        others[2, slice(None) if name in sets.LEGACY else slice(third, 2 * third)] = False
        np.testing.assert_array_equal(soiled[others], clean[others])


@pytest.mark.parametrize("name", WITH_IMPORTANCE)
def test_importance_without_aim(codec: RowCodec, name: str) -> None:
    """Importance of zeros alone is as none; of some zeros, all columns are still stored."""
    rows = heavy_tailed(4, 512)
    nothing = np.zeros(512, np.float32)
    np.testing.assert_array_equal(
        quantized(codec, name, rows, nothing), quantized(codec, name, rows)
    )
    half = np.repeat(np.float32([0.0, 1.0]), 256)
    restored = dequantized(name, quantized(codec, name, rows, half))
    error = np.sqrt(((restored - rows)[:, :256] ** 2).mean() / (rows[:, :256] ** 2).mean())
    assert error < 0.4


SPREADS = st.floats(-12.0, 12.0)


@given(st.sampled_from(SEARCHED), SPREADS, SPREADS, st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_error_is_bounded_by_the_group(name: str, spread: float, offset: float, seed: int) -> None:
    """Whatever the sizes within a super-block, no error exceeds its largest number's share."""
    rng = np.random.default_rng(seed)
    sizes = 2.0 ** rng.uniform(-abs(spread), 0.0, 16).repeat(16)
    rows = ((rng.standard_normal(256) + offset / 8.0) * sizes).astype(np.float32)[None]
    restored = dequantized(name, quantized(codec_of(TIERS[0]), name, rows))
    steps = {"Q2_K": 3, "Q3_K": 6, "Q4_K": 15, "Q5_K": 31, "Q6_K": 62}.get(name, 10)
    assert np.abs(restored - rows).max() <= 2.5 * np.abs(rows).max() / steps
