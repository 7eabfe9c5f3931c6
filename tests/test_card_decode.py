"""The kernel that attends with few tokens over the card's pages, in its CPU form."""

from __future__ import annotations

import numpy as np
import pytest
from card_harness import CardCache, Part
from warp_harness import warp_runner

from edgellama.kernels_cpu.layouts import ALL_KEYS

CASES = [
    # types, head size, KV heads, query heads of each, window, keys of a part
    (("f16", "f16"), 64, 2, 3, ALL_KEYS, 256),
    (("f32", "f32"), 160, 1, 2, ALL_KEYS, ALL_KEYS),
    (("bf16", "q4_0"), 80, 2, 3, 200, 128),
    (("q4_0", "bf16"), 100, 2, 8, ALL_KEYS, 128),
    (("q8_0", "q8_0"), 48, 1, 9, 100, 128),
]
PARTS = [Part(0, 0, 1), Part(1, 300, 3), Part(2, 127, 2), Part(3, 640, 1), Part(4, 511, 8)]


@pytest.mark.parametrize(("pair", "head_size", "kv_heads", "group", "window", "split_keys"), CASES)
def test_as_the_formula_says(
    pair: tuple[str, str], head_size: int, kv_heads: int, group: int, window: int, split_keys: int
) -> None:
    """Ragged segments give softmax(q k) v over the stored keys and values, to f32's accuracy."""
    rng = np.random.default_rng(5)
    card = CardCache(warp_runner(), pair, head_size, kv_heads, group, 5, 768, window)
    for part in PARTS:
        count = part.position + part.num_tokens
        rows = [rng.normal(size=(count, kv_heads, head_size)).astype(np.float32) for _ in range(2)]
        card.store([Part(part.sequence, 0, count)], *rows)
    num_rows = sum(part.num_tokens for part in PARTS)
    q = rng.normal(size=(num_rows, kv_heads * group, head_size)).astype(np.float32)
    result = card.attend_few(PARTS, q, split_keys)
    expected = card.naive(PARTS, q)
    assert np.abs(result - expected).max() < 2e-6 * np.abs(expected).max()
