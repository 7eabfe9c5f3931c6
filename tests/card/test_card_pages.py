"""Pages laid out for the graphics card hold the same numbers as the CPU's."""

from __future__ import annotations

import struct
from itertools import product

import numpy as np
import pytest
from harness.caches import PAIRS, CacheRunner
from harness.kernels import TIERS, model_of, runner_of
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellama.cuda import layouts
from edgellama.engine.pages.card_layout import CardPageLayout
from edgellama.engine.pages.kv_types import KVTypes
from edgellama.engine.pages.page_lanes import convert_page
from edgellama.engine.pages.page_layout import PageLayout
from edgellama.kernels_cpu.layouts import PAGE_POSITIONS
from edgellama.kernels_cpu.signatures import CACHE_NUMBER_BITS, CACHE_SCALE_ELEMENTS, CACHE_TYPES
from edgellama.quant.errors import UnsupportedModelError

LAYERS, HEADS = 2, 2


def layouts_of(
    kinds: tuple[str, str], head_size: int, lanes: int
) -> tuple[PageLayout, CardPageLayout]:
    """Pages of one model on the CPU and on the card."""
    config = model_of(8, head_size=head_size, heads=HEADS, kv_heads=HEADS)
    cpu = PageLayout.of(config, KVTypes(*kinds), lanes, LAYERS)
    return cpu, CardPageLayout(kinds, LAYERS, HEADS, head_size)


@settings(max_examples=40, deadline=None)
@given(
    kinds=st.sampled_from(list(product(CACHE_TYPES, CACHE_TYPES))),
    head_size=st.integers(1, layouts.MAX_HEAD_SIZE // 2).map(lambda half: 2 * half),
    lanes=st.sampled_from([4, 8, 16]),
    num_positions=st.integers(1, PAGE_POSITIONS),
    seed=st.integers(0, 9),
)
def test_there_and_back(
    kinds: tuple[str, str], head_size: int, lanes: int, num_positions: int, seed: int
) -> None:
    """The first positions of a page survive the card's layout bit for bit, the others become 0."""
    cpu, card = layouts_of(kinds, head_size, lanes)
    page = np.random.default_rng(seed).integers(0, 256, cpu.page_bytes, np.uint8)
    there, back, expected = (
        np.zeros(card.page_bytes, np.uint8),
        np.zeros_like(page),
        np.zeros_like(page),
    )
    convert_page(page, cpu, there, card, num_positions)
    convert_page(there, card, back, cpu, num_positions)
    convert_page(page, cpu, expected, cpu, num_positions)
    assert np.array_equal(back, expected)
    again = np.zeros_like(there)
    convert_page(there, card, again, card, PAGE_POSITIONS)
    assert np.array_equal(again, there)


def number_in(memory: np.ndarray, at: int, kind: str, element: int) -> float:
    """Element ``element`` of a chunk that begins at ``at``, unscaled; written out on its own."""
    bits = CACHE_NUMBER_BITS[kind]
    chunk = memory[at : at + 16].tobytes()
    if kind == "q4_0":
        byte = chunk[element % 16]
        return (byte >> 4 if element >= 16 else byte & 15) - 8
    if kind == "bf16":
        return struct.unpack("<f", b"\0\0" + chunk[2 * element : 2 * element + 2])[0]
    letter = {"f32": "f", "f16": "e", "q8_0": "b"}[kind]
    return struct.unpack_from(f"<{letter}", chunk, element * bits // 8)[0]


def read_head(
    memory: np.ndarray, layout: CardPageLayout, layer: int, head: int
) -> list[np.ndarray]:
    """Keys and values of a head of a page, number by number by the formulas of ``layouts``."""
    starts = (
        layout.key_offset(layer) + head * layout.key_head_bytes,
        layout.value_offset(layer) + head * layout.value_head_bytes,
    )
    result = []
    for kind, start, is_keys in zip(layout.kinds, starts, (True, False), strict=True):
        bits, elements = CACHE_NUMBER_BITS[kind], CACHE_SCALE_ELEMENTS.get(kind, 0)
        rows = np.zeros((PAGE_POSITIONS, layout.head_size), np.float32)
        for place, i in product(range(PAGE_POSITIONS), range(layout.head_size)):
            chunk, rest = divmod(i, 128 // bits)
            size = layout.head_size
            if is_keys:
                at = layouts.key_chunk_at(chunk, place)
                scale_at = layouts.key_scale_at(size, bits, i // 32, place)
            else:
                at = layouts.value_chunk_at(size, bits, chunk, place)
                scale_at = layouts.value_scale_at(size, bits, elements, i // 32, place)
            scale = 1.0
            if elements:
                scale = struct.unpack_from("<e", memory, start + scale_at)[0]
            rows[place, i] = np.float32(scale) * np.float32(
                number_in(memory, start + at, kind, rest)
            )
        result.append(rows)
    return result


@pytest.mark.parametrize("kv_type", PAIRS)
def test_what_the_cpu_stored(kv_type: tuple[str, str]) -> None:
    """Numbers of a page that the CPU's kernels wrote lie where ``layouts`` says, padding is 0."""
    head_size = 36
    cache = CacheRunner(runner_of(TIERS[0]), kv_type, head_size, HEADS, 1, PAGE_POSITIONS)
    rng = np.random.default_rng(3)
    q, k, v = (
        rng.normal(0, 1, (PAGE_POSITIONS, HEADS, head_size)).astype(np.float32) for _ in range(3)
    )
    cache.store(0, q, k, v)
    (page,) = cache.cache.pages
    assert page is not None
    layout = CardPageLayout(kv_type, cache.cache.layout.num_layers, HEADS, head_size)
    memory = np.zeros(layout.page_bytes, np.uint8)
    convert_page(page.memory, cache.cache.layout, memory, layout, PAGE_POSITIONS)
    for head in range(HEADS):
        keys, values = read_head(memory, layout, 0, head)
        assert np.array_equal(keys, cache.stored_keys()[head])
        assert np.array_equal(values, cache.stored_values()[head])


def test_parts_of_a_page_follow_each_other() -> None:
    """Layers, keys before values, and heads lie one behind the other, every part on 16 bytes."""
    layout = CardPageLayout(("q8_0", "q4_0"), 3, 5, 100)
    assert layout.key_head_bytes == (7 * 16 + 4 * 2) * 128
    assert layout.value_head_bytes == (4 * 16 + 4 * 2) * 128
    assert layout.value_offset(1) == layout.key_offset(1) + 5 * layout.key_head_bytes
    assert layout.key_offset(2) == layout.value_offset(1) + 5 * layout.value_head_bytes
    assert layout.page_bytes == layout.key_offset(3) == 128 * layout.position_bytes


@pytest.mark.parametrize("head_size", [0, 63, 258])
def test_other_head_sizes_are_refused(head_size: int) -> None:
    """Sizes that the card's kernels do not have are named, with what is supported."""
    with pytest.raises(UnsupportedModelError, match=rf"size {head_size}.*even sizes up to 256"):
        CardPageLayout(("f16", "f16"), 1, 1, head_size)


@pytest.mark.parametrize(("group", "tokens"), [(1, 64), (3, 21), (8, 8), (64, 1), (71, 1)])
def test_tiles_hold_whole_tokens(group: int, tokens: int) -> None:
    """A tile has as many tokens as make up to 64 rows, at least one; a segment whole tiles."""
    assert layouts.tile_tokens(group) == tokens
    assert layouts.count_tiles(tokens, group) == 1
    assert layouts.count_tiles(tokens + 1, group) == 2
