"""The matrix and embedding kernels against their naive twins: tiers, formats, ragged shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from harness import naive_kernels as naive
from harness.kernels import (
    READ_ONLY_FORMATS,
    TIERS,
    TILE_KERNELS,
    TILES,
    KernelRunner,
    formats,
    is_sampled,
    runner_of,
    sampled_kernels,
    tier_name,
)

from edgellama.kernels_cpu.signatures import SKINNY_TILES
from edgellama.quant.formats import FLOAT_FORMATS, FORMATS_BY_NAME, QUANTIZED_FORMATS

FORMATS = QUANTIZED_FORMATS + FLOAT_FORMATS
USUAL = [name for name in FORMATS if name not in READ_ONLY_FORMATS]
KERNELS = [
    *(f"{kind}_{name}" for name in USUAL for kind in ("gemv", "gemm", "embed")),
    *(f"skinny_{name}_{SKINNY_TILES[0]}" for name in USUAL if name in QUANTIZED_FORMATS),
    *TILE_KERNELS,
]
BLOCK_COLUMNS = (32, 64, 96, 128, 160, 288, 1056)
SUPER_BLOCK_COLUMNS = (256, 512, 1280)
FLOAT_COLUMNS = (4, 8, 12, 28, 32, 36, 60, 64, 100, 260)
TOLERANCE = 2e-6
"""Relative to the sum of magnitudes: some roundings of f32."""


def columns_of(name: str) -> tuple[int, ...]:
    """Numbers of columns with every kind of tail."""
    if name in FLOAT_FORMATS:
        return FLOAT_COLUMNS
    return SUPER_BLOCK_COLUMNS if FORMATS_BY_NAME[name].block_size == 256 else BLOCK_COLUMNS


@pytest.fixture(scope="module", params=TIERS, ids=tier_name)
def runner(request: pytest.FixtureRequest) -> Iterator[KernelRunner]:
    """The kernels of each tier in turn, compiled in one go."""
    runner = runner_of(request.param)
    others = ("quantize_records", "quantize_in_order", "swiglu_in_order")
    runner.preload([*sampled_kernels(request.param, KERNELS), *others])
    yield runner


def on_tiers(cases: Iterable[tuple[str, int]]) -> list[Any]:
    """Formats and tiles on each tier, marked slow where the default run leaves them out."""
    return [
        pytest.param(tier, name, tile, marks=[pytest.mark.slow] * (not is_sampled(tier, name)))
        for tier in TIERS
        for name, tile in cases
    ]


@pytest.fixture
def tile_runner(runner: KernelRunner, name: str) -> KernelRunner:
    """The kernels for several tokens of a format too, with those of all formats if need be."""
    if not is_sampled(runner.tier, name):
        runner.preload(TILE_KERNELS)
    return runner


def kernels_of(runner: KernelRunner, name: str) -> tuple[Callable[..., naive.Array], ...]:
    """What multiplies a matrix of a format."""
    kernels = runner.gemv, runner.gemm
    return (*kernels, runner.skinny) if name in QUANTIZED_FORMATS else kernels


def check_product(name: str, weights: naive.Array, x: naive.Array, y: naive.Array) -> None:
    """``y`` is weights x up to f32's roundings."""
    error = np.abs(y - naive.matmul(name, weights, x))
    bound = TOLERANCE * naive.matmul_magnitude(name, weights, x) + 1e-30
    assert np.isfinite(y).all()
    assert (error <= bound).all(), f"{weights.shape} x {x.shape}: {(error / bound).max():.3g}"


@pytest.mark.parametrize("name", formats(FORMATS))
def test_gemv(runner: KernelRunner, name: str) -> None:
    """A few tokens times a matrix are right for every tail of columns and odd numbers of rows."""
    rng = np.random.default_rng(1)
    for columns in columns_of(name):
        for num_rows, num_tokens in ((1, 1), (2, 3), (37, 1), (37, 4), (70, 2)):
            weights = naive.random_weights(name, num_rows, columns, rng)
            x = rng.standard_normal((num_tokens, columns)).astype(np.float32)
            check_product(name, weights, x, runner.gemv(name, weights, x, 2))


@pytest.mark.parametrize("name", formats(QUANTIZED_FORMATS))
def test_skinny(runner: KernelRunner, name: str) -> None:
    """1 to 12 tokens times a matrix are right for ragged columns, panels, chunks and tiles."""
    rng = np.random.default_rng(10)
    for columns in columns_of(name):
        for num_rows, num_tokens in ((1, 1), (7, 6), (16, 7), (33, 12), (70, 5), (64, 2)):
            weights = naive.random_weights(name, num_rows, columns, rng)
            x = rng.standard_normal((num_tokens, columns)).astype(np.float32)
            check_product(name, weights, x, runner.skinny(name, weights, x, 3))


@pytest.mark.parametrize("name", formats(FORMATS))
def test_gemm(runner: KernelRunner, name: str) -> None:
    """1 to 13 tokens times a matrix are right for ragged columns, panels and tiles of tokens."""
    rng = np.random.default_rng(2)
    for columns in columns_of(name):
        for num_rows, num_tokens in ((1, 1), (7, 6), (32, 7), (33, 13), (70, 5), (64, 12)):
            weights = naive.random_weights(name, num_rows, columns, rng)
            x = rng.standard_normal((num_tokens, columns)).astype(np.float32)
            check_product(name, weights, x, runner.gemm(name, weights, x, 3))


@pytest.mark.parametrize("name", formats(FORMATS))
def test_every_number_of_tokens(runner: KernelRunner, name: str) -> None:
    """All kernels agree with the twin for each of 1 to 13 tokens."""
    rng = np.random.default_rng(3)
    columns = columns_of(name)[-1]
    weights = naive.random_weights(name, 35, columns, rng)
    for num_tokens in range(1, 14):
        x = rng.standard_normal((num_tokens, columns)).astype(np.float32)
        for kernel in kernels_of(runner, name):
            check_product(name, weights, x, kernel(name, weights, x))


@pytest.mark.parametrize("name", formats(FORMATS))
def test_accumulate(runner: KernelRunner, name: str) -> None:
    """With ``accumulate`` the product is added to what the output held: bit for bit."""
    rng = np.random.default_rng(4)
    columns = columns_of(name)[1]
    weights = naive.random_weights(name, 37, columns, rng)
    x = rng.standard_normal((7, columns)).astype(np.float32)
    for kernel in kernels_of(runner, name):
        expected = kernel(name, weights, x) + np.float32(3.25)
        np.testing.assert_array_equal(kernel(name, weights, x, added_to=3.25), expected)


@pytest.mark.parametrize("name", formats(FORMATS))
def test_gemv_ignores_neighbours_and_threads(runner: KernelRunner, name: str) -> None:
    """A token's product has the same bits alone, in a batch, on more threads, in other chunks."""
    rng = np.random.default_rng(5)
    columns = columns_of(name)[-1]
    weights = naive.random_weights(name, 37, columns, rng)
    x = rng.standard_normal((9, columns)).astype(np.float32)
    alone = np.concatenate([runner.gemv(name, weights, x[i : i + 1]) for i in range(9)])
    np.testing.assert_array_equal(runner.gemv(name, weights, x, 3, chunk_rows=5), alone)
    for num_tokens in (2, 3, 4, 7):
        batch = runner.gemv(name, weights, x[:num_tokens], 2, chunk_rows=64)
        np.testing.assert_array_equal(batch, alone[:num_tokens])


@pytest.mark.parametrize(
    ("runner", "name", "tile"), on_tiers(TILES["gemv"]), indirect=["runner"], ids=tier_name
)
def test_several_tokens_are_multiplied_like_one(
    tile_runner: KernelRunner, name: str, tile: int
) -> None:
    """Rows that are multiplied with several tokens at once give each the bits that it has alone."""
    rng = np.random.default_rng(13)
    for columns in columns_of(name):
        weights = naive.random_weights(name, 37, columns, rng)
        x = rng.standard_normal((12, columns)).astype(np.float32)
        alone = tile_runner.gemv(name, weights, x)
        for num_tokens in (1, 3, tile, 12):
            y = tile_runner.gemv(name, weights, x[:num_tokens], 2, tile=tile)
            np.testing.assert_array_equal(y, alone[:num_tokens])
            y = tile_runner.gemv(name, weights, x[:num_tokens], tile=tile, added_to=0.5)
            np.testing.assert_array_equal(y, alone[:num_tokens] + np.float32(0.5))


@pytest.mark.parametrize("name", formats(FORMATS))
def test_gemm_ignores_neighbours(runner: KernelRunner, name: str) -> None:
    """A token's product has the same bits whatever tokens stand beside it in a long step."""
    rng = np.random.default_rng(6)
    columns = columns_of(name)[-1]
    weights = naive.random_weights(name, 37, columns, rng)
    x = rng.standard_normal((13, columns)).astype(np.float32)
    together = runner.gemm(name, weights, x, 2)
    for first in (0, 1, 5, 12):
        np.testing.assert_array_equal(runner.gemm(name, weights, x[first:]), together[first:])


@pytest.mark.parametrize("name", formats(QUANTIZED_FORMATS))
def test_skinny_ignores_neighbours_and_threads(runner: KernelRunner, name: str) -> None:
    """A token's product has the same bits alone, in a batch, on more threads, in other chunks."""
    rng = np.random.default_rng(11)
    columns = columns_of(name)[-1]
    weights = naive.random_weights(name, 69, columns, rng)
    x = rng.standard_normal((12, columns)).astype(np.float32)
    alone = np.concatenate([runner.skinny(name, weights, x[i : i + 1]) for i in range(12)])
    for num_tokens, num_threads, chunk_rows in ((2, 1, 16), (4, 3, 5), (7, 2, 48), (12, 3, 128)):
        y = runner.skinny(name, weights, x[:num_tokens], num_threads, chunk_rows=chunk_rows)
        np.testing.assert_array_equal(y, alone[:num_tokens])


def check_skinny(runner: KernelRunner, name: str, tile: int) -> None:
    """AssertionError unless ``skinny`` of a tile gives each token the bits of ``gemm``."""
    rng = np.random.default_rng(12)
    for columns in columns_of(name):
        weights = naive.random_weights(name, 69, columns, rng)
        x = rng.standard_normal((12, columns)).astype(np.float32)
        expected = runner.gemm(name, weights, x)
        for num_tokens in (1, tile, 12):
            y = runner.skinny(name, weights, x[:num_tokens], tile=tile)
            np.testing.assert_array_equal(y, expected[:num_tokens])


@pytest.mark.parametrize("name", formats(QUANTIZED_FORMATS))
def test_two_and_many_add_up_alike(runner: KernelRunner, name: str) -> None:
    """Kernels for two tokens at a time and for many give a token the same bits."""
    check_skinny(runner, name, SKINNY_TILES[0])


@pytest.mark.parametrize(
    ("runner", "name", "tile"), on_tiers(TILES["skinny"]), indirect=["runner"], ids=tier_name
)
def test_a_few_and_many_add_up_alike(tile_runner: KernelRunner, name: str, tile: int) -> None:
    """Kernels for four and eight tokens at a time and for many give a token the same bits."""
    check_skinny(tile_runner, name, tile)


@pytest.mark.parametrize("name", formats(QUANTIZED_FORMATS))
def test_gated_product(runner: KernelRunner, name: str) -> None:
    """Gate and up in one kernel leave the bits that both products and SwiGLU leave."""
    rng = np.random.default_rng(9)
    for columns in columns_of(name)[:3]:
        for num_rows, num_tokens in ((32, 1), (96, 13), (64, 24)):
            x = rng.standard_normal((num_tokens, columns)).astype(np.float32)
            gate, up = (naive.random_weights(name, num_rows, columns, rng) for _ in "gu")
            factors = runner.gemm(name, gate, x), runner.gemm(name, up, x)
            _, expected = runner.swiglu(*factors, "in_order")
            left = runner.gated(name, gate, up, x)
            for part, array in expected.items():
                np.testing.assert_array_equal(left[part], array, part)


@pytest.mark.parametrize("name", formats(QUANTIZED_FORMATS))
@pytest.mark.parametrize("float_name", FLOAT_FORMATS)
@pytest.mark.parametrize("rank", [4, 20, 256])
def test_added_product(runner: KernelRunner, name: str, float_name: str, rank: int) -> None:
    """What is added in the kernel leaves the bits that a product of its own leaves."""
    rng = np.random.default_rng(11)
    columns = columns_of(name)[1]
    for num_rows, num_tokens in ((96, 13), (32, 1), (41, 24)):
        x = rng.standard_normal((num_tokens, columns)).astype(np.float32)
        few = rng.standard_normal((num_tokens, rank)).astype(np.float32)
        weights = naive.random_weights(name, num_rows, columns, rng)
        more = naive.random_weights(float_name, num_rows, rank, rng)
        extra = runner.gemm(float_name, more, few)
        added = runner.added([(float_name, more, few)])
        for before in (None, 0.5):
            plain = runner.gemm(name, weights, x, added_to=before)
            y = runner.gemm(name, weights, x, 2, added_to=before, added=added)
            np.testing.assert_array_equal(y, plain + extra)


@pytest.mark.parametrize("name", formats(QUANTIZED_FORMATS))
def test_gated_product_with_additions(runner: KernelRunner, name: str) -> None:
    """Each factor of a gated product gets its own addition, or none."""
    rng = np.random.default_rng(12)
    columns, num_rows, num_tokens = columns_of(name)[1], 64, 13
    x = rng.standard_normal((num_tokens, columns)).astype(np.float32)
    gate, up = (naive.random_weights(name, num_rows, columns, rng) for _ in "gu")
    for gate_rank, up_rank in ((8, 4), (0, 12), (16, 0)):
        factors, products = [], []
        for weights, rank in ((gate, gate_rank), (up, up_rank)):
            few = rng.standard_normal((num_tokens, rank)).astype(np.float32)
            more = naive.random_weights("F32", num_rows, rank, rng)
            extra = runner.gemm("F32", more, few) if rank else np.float32(0)
            factors.append(runner.gemm(name, weights, x) + extra)
            products.append(("F32", more, few))
        _, expected = runner.swiglu(*factors, "in_order")
        left = runner.gated(name, gate, up, x, runner.added(products))
        for part, array in expected.items():
            np.testing.assert_array_equal(left[part], array, part)


@pytest.mark.parametrize("name", formats(FORMATS))
def test_embed(runner: KernelRunner, name: str) -> None:
    """The rows of any tokens, in any order and repeated, have the bits that ``gguf`` gives."""
    rng = np.random.default_rng(7)
    for columns in columns_of(name):
        weights = naive.random_weights(name, 19, columns, rng)
        tokens = [18, 0, 7, 7, 11]
        y = runner.embed(name, weights, columns, tokens)
        np.testing.assert_array_equal(y, naive.embed(name, weights, tokens))


@pytest.mark.parametrize("name", formats(QUANTIZED_FORMATS))
def test_extreme_scales(runner: KernelRunner, name: str) -> None:
    """Half scales that are zero, subnormal or the largest are read exactly by every kernel."""
    rng = np.random.default_rng(8)
    columns = columns_of(name)[-1]
    weights = naive.random_weights(name, 33, columns, rng)
    blocks = weights.reshape(33, -1, naive.FORMATS_BY_NAME[name].block_bytes)
    halves = np.array([0.0, -0.0, 2.0**-24, -(2.0**-24), 2.0**-15, 3e-5, 65504, -65504])
    for offset in naive.HALF_OFFSETS[name]:
        picked = rng.choice(halves, blocks.shape[:2]).astype(np.float16)
        naive.set_factor(name, blocks, offset, picked)
    tokens = list(range(33))
    y = runner.embed(name, weights, columns, tokens)
    np.testing.assert_array_equal(y, naive.embed(name, weights, tokens))
    x = rng.standard_normal((7, columns)).astype(np.float32)
    for kernel in kernels_of(runner, name):
        check_product(name, weights, x, kernel(name, weights, x))


def extreme_activations(columns: int) -> naive.Array:
    """Tokens that are at the limit everywhere, their signs alike or in turn at every distance."""
    places = np.arange(columns)
    signs = [(-1.0) ** (places // distance) for distance in (columns, 1, 2, 4, 8, 16)]
    return np.array([sign * row for row in signs for sign in (5.0, -5.0)], np.float32)


@pytest.mark.parametrize("name", formats(QUANTIZED_FORMATS))
def test_largest_dot_products(runner: KernelRunner, name: str) -> None:
    """Quants all at an end of their range or alternating overflow nothing, whatever the signs."""
    columns = columns_of(name)[-1]
    weights = np.full((33, naive.FORMATS_BY_NAME[name].row_bytes(columns)), 0xFF, np.uint8)
    blocks = weights.reshape(33, -1, naive.FORMATS_BY_NAME[name].block_bytes)
    first, last = naive.QUANT_BYTES[name]
    for row, fill in enumerate((0x00, 0x7F, 0x80, 0x55, 0xAA, 0x0F, 0xF0)):
        blocks[row, :, first:last] = fill
    blocks[7, :, first:last:2] = 0
    blocks[8, :, first + 1 : last : 2] = 0
    for offset in naive.HALF_OFFSETS[name]:
        naive.set_factor(name, blocks, offset, np.ones(blocks.shape[:2], np.float16))
    x = extreme_activations(columns)
    for kernel in kernels_of(runner, name):
        check_product(name, weights, x, kernel(name, weights, x))


def test_all_half_patterns(runner: KernelRunner) -> None:
    """Each of the 65536 half patterns widens exactly: subnormals, infinities, NaN, both zeros."""
    halves = np.arange(65536, dtype=np.uint16).view(np.float16)
    y = runner.embed("F16", halves[None].view(np.uint8), 65536, [0])[0]
    expected = halves.astype(np.float32)
    number = ~np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(y), ~number)
    np.testing.assert_array_equal(y.view(np.uint32)[number], expected.view(np.uint32)[number])


def test_all_bfloat16_patterns(runner: KernelRunner) -> None:
    """Each of the 65536 bfloat16 patterns becomes the f32 of the same upper bits."""
    patterns = np.arange(65536, dtype=np.uint16)
    y = runner.embed("BF16", patterns[None].view(np.uint8), 65536, [0])[0]
    np.testing.assert_array_equal(y.view(np.uint32), patterns.astype(np.uint32) << 16)
