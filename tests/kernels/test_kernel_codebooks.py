"""Formats that are only read, on the fastest tier: codebooks, signs, and numbers beyond all tables.

What every format must do is in ``test_kernel_matrices``, which takes minutes for these.
"""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants
from harness import naive_kernels as naive
from harness.caches import READ_ONLY_KERNELS
from harness.kernels import READ_ONLY_FORMATS, TIERS, KernelRunner, runner_of
from test_kernel_matrices import check_product, extreme_activations

from edgellama.kernels_cpu.formats import codebooks
from edgellama.kernels_cpu.simd.codebooks import Table
from edgellama.quant.formats import FORMATS_BY_NAME

CODEBOOKS = [value for value in vars(codebooks).values() if isinstance(value, Table)]
COLUMNS = (256, 1280)


@pytest.fixture(scope="module")
def runner() -> KernelRunner:
    """The fastest tier's kernels of these formats, compiled in one go."""
    runner = runner_of(TIERS[0])
    runner.preload([*READ_ONLY_KERNELS, "quantize_records", "quantize_in_order"])
    return runner


@pytest.mark.parametrize("table", CODEBOOKS, ids=lambda table: table.name)
def test_codebooks_are_those_of_gguf(table: Table) -> None:
    """Every vector of a codebook is the one that ``gguf`` has under its number."""
    reference = quants.IQ1_S if table is codebooks.IQ1_GRID else getattr(quants, table.name)
    reference.init_grid()
    expected = reference.grid * 8 + 32 if table is codebooks.IQ1_GRID else reference.grid
    np.testing.assert_array_equal(np.frombuffer(table.unpacked(), np.uint8), expected.reshape(-1))


def test_numbers_of_a_codebook_are_masked() -> None:
    """A codebook whose length is no power of two, so that masks could not bound it, is refused."""
    with pytest.raises(ValueError, match="power of two"):
        Table("X", (1, 2), 48, 4, "00" * 96)


@pytest.mark.parametrize("name", READ_ONLY_FORMATS)
def test_products(runner: KernelRunner, name: str) -> None:
    """One token and many times a matrix of odd size are right, and several have the bits of one."""
    rng = np.random.default_rng(1)
    for columns in COLUMNS:
        weights = naive.random_weights(name, 37, columns, rng)
        x = rng.standard_normal((7, columns)).astype(np.float32)
        for kernel in (runner.gemv, runner.gemm):
            check_product(name, weights, x, kernel(name, weights, x, 2))
        alone = np.concatenate([runner.gemv(name, weights, row[None]) for row in x])
        np.testing.assert_array_equal(runner.gemv(name, weights, x, 3, chunk_rows=5), alone)


@pytest.mark.parametrize("name", READ_ONLY_FORMATS)
def test_rows_have_the_bits_of_gguf(runner: KernelRunner, name: str) -> None:
    """Rows of random bytes, and of factors that are zero, subnormal or the largest."""
    rng = np.random.default_rng(7)
    weights = naive.random_weights(name, 61, 1280, rng)
    blocks = weights.reshape(61, -1, FORMATS_BY_NAME[name].block_bytes)
    halves = np.array([0.0, -0.0, 2.0**-24, -(2.0**-24), 3e-5, 60000, -60000], np.float16)
    for offset in naive.HALF_OFFSETS[name]:
        naive.set_factor(name, blocks[30:], offset, rng.choice(halves, (31, blocks.shape[1])))
    y = runner.embed(name, weights, 1280, list(range(61)))
    np.testing.assert_array_equal(y, naive.embed(name, weights, range(61)))


@pytest.mark.parametrize("name", READ_ONLY_FORMATS)
def test_every_byte(runner: KernelRunner, name: str) -> None:
    """Quants of one byte throughout, whichever it is, overflow nothing and read nothing else."""
    fmt = FORMATS_BY_NAME[name]
    weights = np.repeat(np.arange(256, dtype=np.uint8)[:, None], fmt.row_bytes(256), axis=1)
    blocks = weights.reshape(256, -1, fmt.block_bytes)
    for offset in naive.HALF_OFFSETS[name]:
        naive.set_factor(name, blocks, offset, np.ones(blocks.shape[:2], np.float16))
    assert np.isfinite(quants.dequantize(weights, GGMLQuantizationType[name])).all()
    x = extreme_activations(256)
    for kernel in (runner.gemv, runner.gemm):
        check_product(name, weights, x, kernel(name, weights, x))
