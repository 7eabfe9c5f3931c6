"""The cache of keys and values: sizes, limits, truncation, closing."""

from __future__ import annotations

import pytest
from kernel_harness import model_of

from edgellama.kernels_cpu.signatures import PANEL_VECTORS
from edgellama.kv_cache import KVCache
from edgellama.quant.errors import InvalidOptionError

CONFIG = model_of(256, head_size=64, heads=4, kv_heads=2)


@pytest.mark.parametrize(("kv_type", "number_bytes"), [("f32", 4), ("f16", 2)])
def test_size(kv_type: str, number_bytes: int) -> None:
    """Keys and values of every position, rounded up to whole key blocks, and no more."""
    for context_length, positions in ((1, 32), (32, 32), (33, 64), (1000, 1024)):
        cache = KVCache(CONFIG, context_length, kv_type, 16)
        assert cache.num_bytes == 2 * positions * 2 * 64 * number_bytes
        assert cache.context_length == context_length
        assert cache.length == 0


def test_layers_and_heads_do_not_overlap() -> None:
    """All layers' heads lie one behind the other within what is reserved, rows whole panels."""
    config = model_of(200, head_size=100, heads=2, kv_heads=2)
    for lanes in (4, 16):
        layout = KVCache(config, 77, "f16", lanes).layout
        block = PANEL_VECTORS * lanes
        assert layout.value_row_bytes % (2 * block) == 0
        assert layout.value_row_bytes >= 200
        assert layout.value_head_bytes >= 77 * layout.value_row_bytes
        assert layout.key_head_bytes >= 77 * 200
        assert layout.key_layer_bytes == 2 * layout.key_head_bytes
        assert layout.value_layer_bytes == 2 * layout.value_head_bytes
        assert layout.num_bytes == layout.key_layer_bytes + layout.value_layer_bytes


def test_memory_is_reserved_not_touched() -> None:
    """A context far larger than the memory in use costs nothing until it is used."""
    psutil = pytest.importorskip("psutil")
    process = psutil.Process()
    before = process.memory_info().rss
    cache = KVCache(CONFIG, 1_000_000, "f16", 16)
    assert cache.num_bytes >= 500_000_000
    assert process.memory_info().rss - before < 50_000_000


@pytest.mark.parametrize("kv_type", ["q8_0", "F16", ""])
def test_unknown_type(kv_type: str) -> None:
    """A type that there is not is refused with those that there are."""
    with pytest.raises(InvalidOptionError, match="f32, f16"):
        KVCache(CONFIG, 8, kv_type, 16)


@pytest.mark.parametrize("context_length", [0, -5])
def test_impossible_length(context_length: int) -> None:
    """A context must have room for one token."""
    with pytest.raises(InvalidOptionError, match=f"{context_length}; it must be at least 1"):
        KVCache(CONFIG, context_length, "f16", 16)


def test_more_than_the_memory() -> None:
    """A context that no machine has room for is refused with its size, not a MemoryError."""
    with pytest.raises(InvalidOptionError, match=r"no memory.*GB.*shorter context"):
        KVCache(CONFIG, 1 << 44, "f32", 16)


def test_truncate() -> None:
    """The length may be set back, to nothing too, but never forward or below zero."""
    cache = KVCache(CONFIG, 8, "f16", 16)
    cache.length = 5
    for length in (5, 3, 0):
        cache.truncate(length)
        assert cache.length == length
    for length in (1, -1):
        with pytest.raises(InvalidOptionError, match=f"truncate to {length}.*holds 0"):
            cache.truncate(length)


def test_close() -> None:
    """A closed cache holds no memory and has room for nothing; closing twice is fine."""
    cache = KVCache(CONFIG, 8, "f16", 16)
    cache.length = 5
    cache.close()
    cache.close()
    assert (cache.num_bytes, cache.length, cache.context_length) == (0, 0, 0)
