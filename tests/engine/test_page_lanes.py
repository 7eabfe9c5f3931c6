"""Pages laid out for another tier hold the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
from harness.caches import PAIRS, CacheRunner
from harness.kernels import TIERS, model_of, runner_of

from edgellama.engine.pages.kv_types import KVTypes
from edgellama.engine.pages.page_lanes import convert_page
from edgellama.engine.pages.page_layout import PageLayout
from edgellama.kernels_cpu.layouts import PAGE_POSITIONS
from edgellama.kernels_cpu.machine.cpu import GENERIC

HEAD_SIZE = 36


@pytest.mark.parametrize("kv_type", PAIRS)
def test_kernels_read_what_another_tiers_kernels_wrote(kv_type: tuple[str, str]) -> None:
    """Keys and values stored on the fastest tier are the same bits in pages of the generic one."""
    tiers = (TIERS[0], GENERIC)
    runners = [
        CacheRunner(runner_of(tier), kv_type, HEAD_SIZE, 2, 2, PAGE_POSITIONS) for tier in tiers
    ]
    rng = np.random.default_rng(3)
    q, k, v = (
        rng.normal(0, 1, (PAGE_POSITIONS, heads, HEAD_SIZE)).astype(np.float32)
        for heads in (4, 2, 2)
    )
    fast, generic = runners
    queries, _ = fast.store(0, q, k, v)
    (source,), (target,) = fast.cache.pages, generic.cache.pages
    assert source is not None
    assert target is not None
    target.memory[:] = 0
    convert_page(
        source.memory, fast.cache.layout, target.memory, generic.cache.layout, PAGE_POSITIONS
    )
    assert np.array_equal(fast.stored_keys(), generic.stored_keys())
    assert np.array_equal(fast.stored_values(), generic.stored_values())
    last = queries[-1:]
    first, second = (cache.attend(PAGE_POSITIONS - 1, last, rows=3) for cache in (fast, generic))
    assert np.allclose(first, second, atol=1e-4)


@pytest.mark.parametrize("kv_type", [*PAIRS, ("f16", "q8_0")])
@pytest.mark.parametrize("head_size", [4, 64, 100])
@pytest.mark.parametrize("lanes", [(4, 16), (16, 8), (8, 8)])
def test_there_and_back(kv_type: tuple[str, str], head_size: int, lanes: tuple[int, int]) -> None:
    """The first positions of a page survive another layout bit for bit, the others become 0."""
    config = model_of(8, head_size=head_size, heads=2, kv_heads=2)
    first, second = (PageLayout.of(config, KVTypes(*kv_type), count, 2) for count in lanes)
    rng = np.random.default_rng(head_size)
    page = rng.integers(0, 256, first.page_bytes, np.uint8)
    clean, there = np.zeros_like(page), np.zeros(second.page_bytes, np.uint8)
    convert_page(page, first, clean, first, PAGE_POSITIONS)
    convert_page(clean, first, there, second, 77)
    back = np.zeros_like(page)
    convert_page(there, second, back, first, PAGE_POSITIONS)
    beginning = np.zeros_like(page)
    convert_page(clean, first, beginning, first, 77)
    assert np.array_equal(back, beginning)
    assert (back != clean).any()
    convert_page(clean, first, there, second, PAGE_POSITIONS)
    convert_page(there, second, back, first, PAGE_POSITIONS)
    assert np.array_equal(back, clean)
