"""The cache of keys and values: sizes, limits, truncation, closing."""

from __future__ import annotations

from typing import Any

import pytest
from kernel_harness import model_of

from edgellama.engine.kv_cache import KVCache
from edgellama.engine.kv_types import KVTypes
from edgellama.kernels_cpu.signatures import PANEL_VECTORS
from edgellama.quant.errors import InvalidOptionError, UnsupportedModelError

CONFIG = model_of(256, head_size=64, heads=4, kv_heads=2)


SIZES = [
    ("f32", 2 * 256),
    ("f16", 2 * 128),
    ("bf16", 2 * 128),
    ("q8_0", 2 * 68),
    ("q4_0", 2 * 36),
    (("f16", "q4_0"), 128 + 36),
    ("q8_0/f32", 68 + 256),
]


@pytest.mark.parametrize(("kv_type", "position_bytes"), SIZES)
def test_size(kv_type: str | tuple[str, str], position_bytes: int) -> None:
    """Keys and values of every position, rounded up to whole key blocks, and no more."""
    for context_length, positions in ((1, 32), (32, 32), (33, 64), (1000, 1024)):
        cache = KVCache(CONFIG, context_length, kv_type, 16)
        assert cache.num_bytes == 2 * positions * position_bytes
        assert cache.context_length == context_length
        assert cache.length == 0


def test_layers_and_heads_do_not_overlap() -> None:
    """All layers' heads lie one behind the other within what is reserved, rows whole panels."""
    config = model_of(200, head_size=100, heads=2, kv_heads=2)
    for lanes in (4, 16):
        layout = KVCache(config, 77, "f16", lanes).layout
        block = PANEL_VECTORS * lanes
        assert layout.value_block_bytes % (2 * block * block) == 0
        assert layout.value_block_bytes >= 200 * block
        assert layout.value_head_bytes >= 77 * layout.value_block_bytes // block
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


@pytest.mark.parametrize("kv_type", ["q5_0", "F16", "", "f16/", "f16/q8", ("f16", "i8")])
def test_unknown_type(kv_type: str | tuple[str, str]) -> None:
    """A type that there is not is refused with those that there are."""
    with pytest.raises(InvalidOptionError, match=r"allowed: f32, f16, bf16, q8_0, q4_0, or"):
        KVCache(CONFIG, 8, kv_type, 16)


@pytest.mark.parametrize("kv_type", ["f16/f16/f16", ("f16",) * 3, (), ("f16", 8)])
def test_wrong_number_of_types(kv_type: Any) -> None:
    """More than a type for keys and one for values is refused."""
    with pytest.raises(InvalidOptionError, match="one type, or one for keys and one for values"):
        KVCache(CONFIG, 8, kv_type, 16)


def test_types_of_keys_and_values() -> None:
    """One name is for both; the short form of a pair is what it can be given as."""
    for choice in ("q8_0", "q8_0/q8_0", ("q8_0", "q8_0")):
        assert str(KVTypes.of(choice)) == "q8_0"
    for choice in ("f16/q4_0", ("f16", "q4_0")):
        types = KVTypes.of(choice)
        assert (types.keys, types.values, str(types)) == ("f16", "q4_0", "f16/q4_0")
        assert types.position_bytes(80) == 160 + 40 + 3 * 2


def test_odd_heads() -> None:
    """Heads of an odd size, which no positions can turn, are refused."""
    with pytest.raises(UnsupportedModelError, match="head size 63"):
        KVCache(model_of(63, head_size=63, pairs=31), 8, "f16", 16)


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
