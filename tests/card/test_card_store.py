"""The kernel that writes keys and values into the card's pages, in its CPU form."""

from __future__ import annotations

import numpy as np
import pytest
from doubles.warps import FASTEST, warp_runner
from harness.caches import PAIRS, CacheRunner
from harness.cards import CardCache, Part
from harness.kernels import runner_of

from edgellama.engine.pages.page_lanes import convert_page
from edgellama.kernels_cpu.layouts import PAGE_POSITIONS

POSITIONS = 2 * PAGE_POSITIONS
SPECIAL = (0.0, -0.0, 1e-30, -1e-6, 65504.0, 1e6, -3.0, 2.0**-14, 2.0**-25)


def rows_of(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Numbers of many sizes, with ties, zeros and what overflows a half."""
    rows = rng.normal(size=shape) * np.exp2(rng.integers(-6, 6, (*shape[:-1], 1)))
    rows = np.where(rng.random(shape) < 0.1, rng.choice(SPECIAL[:5], shape), rows)
    rows[0] = np.resize(SPECIAL, shape[1:])
    rows[1] = 0.0
    rows[2] = -3.0
    return rows.astype(np.float32)


@pytest.mark.parametrize(
    ("pair", "head_size"), list(zip(PAIRS, (64, 80, 6, 100, 160), strict=True))
)
def test_the_same_bits_as_the_cpu(pair: tuple[str, str], head_size: int) -> None:
    """A page that the card wrote is the CPU's page in the card's layout, bit for bit."""
    rng = np.random.default_rng(2)
    shape = (POSITIONS, 3, head_size)
    k, v = rows_of(rng, *shape), rows_of(rng, *shape)
    cpu = CacheRunner(runner_of(FASTEST), pair, head_size, 3, 2, POSITIONS, pairs=0)
    _, keys = cpu.store(0, np.zeros((POSITIONS, 6, head_size), np.float32), k, v)
    card = CardCache(warp_runner(), pair, head_size, 3, 2, 1, POSITIONS)
    card.store([Part(0, 0, 70)], keys[:70], v[:70])
    card.store([Part(0, 70, POSITIONS - 70)], keys[70:], v[70:])
    for number, page in enumerate(cpu.cache.pages):
        assert page is not None
        expected = np.zeros(card.layout.page_bytes, np.uint8)
        convert_page(page.memory, cpu.cache.layout, expected[: card.layout.layer_bytes],
                     type(card.layout)(pair, 1, 3, head_size), PAGE_POSITIONS)  # fmt: skip
        written = card.page(0, number)
        assert (written[: card.layout.layer_bytes] == 0xFF).all(), "the other layer"
        assert np.array_equal(
            written[card.layout.layer_bytes :], expected[: card.layout.layer_bytes]
        )


def test_segments_of_a_step() -> None:
    """Each row goes to the place that its segment tells, in whatever order; no other is touched."""
    rng = np.random.default_rng(3)
    card = CardCache(warp_runner(), ("f32", "f32"), 8, 2, 3, 40, 2 * PAGE_POSITIONS)
    parts = [Part(n, int(rng.integers(0, 200)), int(rng.integers(1, 14))) for n in range(40)]
    rows = sum(part.num_tokens for part in parts)
    k, v = (rng.normal(size=(rows, 2, 8)).astype(np.float32) for _ in range(2))
    q = rng.normal(size=(rows, 6, 8)).astype(np.float32)
    staged = card.store(parts, k, v, q)
    assert np.array_equal(staged, q.reshape(rows, -1))
    row = 0
    for part in parts:
        where = slice(part.position, part.position + part.num_tokens)
        for stored, given in zip(card.stored(part.sequence), (k, v), strict=True):
            assert np.array_equal(stored[where], given[row : row + part.num_tokens])
            assert np.isnan(np.delete(stored, np.r_[where], axis=0)).all()
        row += part.num_tokens
