"""Keys and values of a sequence: sizes, pages shared and copied, found again, given back."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
from harness.kernels import model_of
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edgellama.engine.pages.kv_cache import KVCache
from edgellama.engine.pages.kv_types import KVTypes
from edgellama.engine.pages.page_layout import PageLayout, memory_parts
from edgellama.engine.pages.page_pool import PagePool
from edgellama.kernels_cpu.layouts import PAGE_POSITIONS, PANEL_VECTORS
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
SMALL = PageLayout.of(model_of(8, head_size=4, heads=2, kv_heads=1), KVTypes("f32", "f32"), 4)


def pool_of(kv_type: str | tuple[str, str] = "f16", limit_bytes: int = 0) -> PagePool:
    """Pages of a small model on a tier of 16 lanes."""
    return PagePool(PageLayout.of(CONFIG, KVTypes.of(kv_type), 16), limit_bytes)


def write(cache: KVCache, tokens: list[int]) -> None:
    """Append tokens as a step does: each position's keys become its token."""
    cache.prepare(len(tokens))
    for position, token in enumerate(tokens, cache.length):
        page = cache.pages[position // PAGE_POSITIONS]
        assert page is not None
        keys, values = memory_parts(page.memory, cache.pool.maker.host_layout)
        block, place = divmod(
            position % PAGE_POSITIONS, cache.pool.maker.host_layout.block_positions
        )
        for part in (keys, values):
            part[:, :, block].view(np.float32)[..., place] = token
    cache.append(tokens)


def read(cache: KVCache) -> list[int]:
    """What ``write`` has left at each position."""
    found = []
    for position in range(cache.length):
        page = cache.pages[position // PAGE_POSITIONS]
        assert page is not None
        keys, _ = memory_parts(page.memory, cache.pool.maker.host_layout)
        block, place = divmod(
            position % PAGE_POSITIONS, cache.pool.maker.host_layout.block_positions
        )
        found.append(int(keys[0, 0, block].view(np.float32)[place]))
    return found


@pytest.mark.parametrize(("kv_type", "position_bytes"), SIZES)
def test_size(kv_type: str | tuple[str, str], position_bytes: int) -> None:
    """A page is the bytes of 128 positions, a sequence touches whole blocks of them, no more."""
    layout = pool_of(kv_type).layout
    assert layout.page_bytes == 2 * 128 * position_bytes
    assert layout.used_bytes(128) == layout.used_bytes(100) == layout.page_bytes
    assert layout.used_bytes(1000) == 8 * layout.page_bytes
    assert layout.used_bytes(1000, window=100) == layout.page_bytes
    if kv_type in ("f16", "bf16", "f32"):
        for num_tokens, positions in ((1, 32), (32, 32), (33, 64)):
            assert layout.used_bytes(num_tokens) == 2 * positions * position_bytes


def test_layers_and_heads_do_not_overlap() -> None:
    """All layers' heads lie one behind the other in a page, value rows padded to whole panels."""
    config = model_of(200, head_size=100, heads=2, kv_heads=2)
    for lanes in (4, 16):
        layout = PageLayout.of(config, KVTypes("f16", "f16"), lanes, num_layers=3)
        block = PANEL_VECTORS * lanes
        assert layout.value_block_bytes % (2 * block * block) == 0
        assert layout.value_block_bytes >= 200 * block
        assert layout.key_head_bytes == 128 * 200
        assert layout.value_offset(1) == layout.key_offset(1) + 2 * layout.key_head_bytes
        assert layout.key_offset(2) == layout.value_offset(1) + 2 * layout.value_head_bytes
        assert layout.page_bytes == layout.key_offset(3)


def test_memory_is_taken_page_by_page() -> None:
    """A context far larger than what is in use costs nothing until it is used."""
    psutil = pytest.importorskip("psutil")
    process = psutil.Process()
    before = process.memory_info().rss
    cache = KVCache(pool_of(), 10_000_000)
    cache.prepare(5)
    assert process.memory_info().rss - before < 50_000_000
    assert cache.num_bytes == cache.layout.page_bytes


@pytest.mark.parametrize("kv_type", ["q5_0", "F16", "", "f16/", "f16/q8", ("f16", "i8")])
def test_unknown_type(kv_type: str | tuple[str, str]) -> None:
    """A type that there is not is refused with those that there are."""
    with pytest.raises(InvalidOptionError, match=r"allowed: f32, f16, bf16, q8_0, q4_0, or"):
        KVTypes.of(kv_type)


@pytest.mark.parametrize("kv_type", ["f16/f16/f16", ("f16",) * 3, (), ("f16", 8)])
def test_wrong_number_of_types(kv_type: Any) -> None:
    """More than a type for keys and one for values is refused."""
    with pytest.raises(InvalidOptionError, match="one type, or one for keys and one for values"):
        KVTypes.of(kv_type)


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
        PageLayout.of(model_of(63, head_size=63, pairs=31), KVTypes("f16", "f16"), 16)


@pytest.mark.parametrize("context_length", [0, -5])
def test_impossible_length(context_length: int) -> None:
    """A context must have room for one token."""
    with pytest.raises(InvalidOptionError, match=f"{context_length}; it must be at least 1"):
        KVCache(pool_of(), context_length)


def test_more_than_the_memory() -> None:
    """A context whose table alone no machine has room for is refused, not a MemoryError."""
    with pytest.raises(InvalidOptionError, match=r"no memory.*shorter"):
        KVCache(pool_of(), 1 << 60)


def test_truncate() -> None:
    """The length may be set back, to nothing too, but never forward or below zero."""
    cache = KVCache(pool_of("f32"), 300)
    write(cache, list(range(200)))
    for length in (200, 130, 128, 5, 0):
        cache.truncate(length)
        assert list(cache.tokens) == list(range(length)) == read(cache)
    assert cache.num_bytes == 0
    for length in (1, -1):
        with pytest.raises(InvalidOptionError, match=f"truncate to {length}.*holds 0"):
            cache.truncate(length)


def test_close() -> None:
    """A closed cache holds no memory and has room for nothing; closing twice is fine."""
    pool = pool_of()
    cache = KVCache(pool, 300)
    cache.prepare(200)
    cache.close()
    cache.close()
    assert (cache.num_bytes, cache.length, cache.context_length) == (0, 0, 0)
    assert pool.num_owned == 0


def test_a_fork_shares_full_pages_and_copies_the_last() -> None:
    """Either may go on after a fork: full pages stay shared, the one written to is copied."""
    cache = KVCache(pool_of("f32"), 1000)
    write(cache, list(range(300)))
    fork = cache.fork()
    assert [page is other for page, other in zip(cache.pages, fork.pages, strict=True)] == [
        True
    ] * 3
    write(fork, [7, 8])
    write(cache, [9])
    assert [page is other for page, other in zip(cache.pages, fork.pages, strict=True)] == [
        *(True, True, False),
    ]
    assert read(fork) == [*range(300), 7, 8]
    assert read(cache) == [*range(300), 9]


def test_pages_are_found_again() -> None:
    """A prompt finds the pages of the same beginning, computed by whoever, even when closed."""
    pool = pool_of("f32", limit_bytes=1 << 30)
    text = list(range(1000))
    first = KVCache(pool, 2000)
    write(first, text[:700])
    other = KVCache(pool, 2000)
    assert other.reuse(text) == 640
    first.close()
    assert read(other) == text[:640]
    third = KVCache(pool, 2000)
    assert third.reuse([*text[:300], 5]) == 256
    assert third.reuse([1, *text]) == 0
    assert third.reuse(text[:256]) == 255
    write(third, [77])
    assert read(third) == [*range(255), 77]
    assert read(other) == text[:640]


def test_other_origins_share_nothing() -> None:
    """What was computed otherwise is not found, by others or by who has computed it."""
    pool = pool_of("f32", limit_bytes=1 << 30)
    text = list(range(300))
    first, second = KVCache(pool, 500), KVCache(pool, 500)
    write(first, text[:200])
    pool.change_origin(b"later")
    assert second.reuse(text) == 0
    # It goes on as it began, so that nobody else finds what comes of it.
    write(first, text[200:])
    fork = first.fork()
    assert KVCache(pool, 500).reuse(text) == 0
    write(second, text)
    assert KVCache(pool, 500).reuse(text) == 256
    assert fork.reuse(text) == first.reuse(text) == 256
    assert read(first) == text[:256]


def test_a_text_of_several_origins_is_used_by_nobody() -> None:
    """What went on under another origin is not found under the first one, when it is back."""
    pool = pool_of("f32", limit_bytes=1 << 30)
    text = list(range(300))
    first = KVCache(pool, 500)
    write(first, text[:200])
    begun_with = pool.origin
    pool.change_origin(b"later")
    write(first, text[200:210])
    pool.change_origin(begun_with)
    write(first, text[210:])
    assert first.origin != begun_with
    assert KVCache(pool, 500).reuse(text) == 128
    assert first.reuse(text) == 128


def test_the_limit() -> None:
    """Pages without an owner stay under the limit: the oldest go first, a text's end before all."""
    pool = pool_of("f32")
    pool.limit_bytes = 4 * pool.layout.page_bytes
    old, new = list(range(384)), list(range(1000, 1384))
    for text in (old, new):
        cache = KVCache(pool, 500)
        write(cache, text)
        cache.close()
    assert pool.idle_bytes == 4 * pool.layout.page_bytes
    assert KVCache(pool, 500).reuse([*new, 1]) == 384
    assert KVCache(pool, 500).reuse([*old, 1]) == 128
    gc.collect()
    pool.limit_bytes = pool.layout.page_bytes
    assert pool.idle_bytes == pool.layout.page_bytes
    pool.clear()
    assert pool.idle_bytes == 0


def test_memory_is_given_back() -> None:
    """What pages took is the system's again when they are dropped."""
    psutil = pytest.importorskip("psutil")
    process = psutil.Process()
    config = model_of(4096, head_size=128, heads=32, kv_heads=32)
    pool = PagePool(PageLayout.of(config, KVTypes("f32", "f32"), 16), 1 << 40)
    cache = KVCache(pool, 1000)
    cache.prepare(1000)
    for page in cache.pages:
        assert page is not None
        page.memory[:] = 1
    del page
    cache.append(list(range(1000)))
    full = process.memory_info().rss
    cache.close()
    assert pool.idle_bytes == 7 * pool.layout.page_bytes
    pool.limit_bytes = 0
    assert full - process.memory_info().rss > 0.9 * 8 * pool.layout.page_bytes


def test_a_window_gives_pages_back() -> None:
    """Behind a window pages are released; what is gone is computed again from the start."""
    pool = pool_of("f32")
    cache = KVCache(pool, 2000, window=200)
    for token in range(1000):
        write(cache, [token])
        assert pool.num_owned <= 3
    assert [page is None for page in cache.pages] == [True] * 6 + [False] * 2
    cache.truncate(990)
    assert cache.length == 990
    cache.truncate(500)
    assert (cache.length, pool.num_owned) == (0, 0)


@pytest.mark.parametrize("length", [1, 100, 128, 200, 500])
def test_a_page_behind_the_window_is_never_written(length: int) -> None:
    """Whatever is kept of a text whose beginning is gone, other tokens can follow it."""
    cache = KVCache(pool_of("f32"), 2000, window=200)
    for token in range(600):
        write(cache, [token])
    fork = cache.fork()
    cache.truncate(length)
    write(cache, [7, 8])
    assert list(cache.tokens[-2:]) == [7, 8]
    kept = fork.reuse([*range(length), 7, 8])
    write(fork, [*range(kept, length), 7, 8])
    assert list(fork.tokens) == [*range(length), 7, 8]


class Sequences(RuleBasedStateMachine):
    """Any order of appending, forking, truncating, finding and freeing keeps every text."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = PagePool(SMALL, limit_bytes=5 * SMALL.page_bytes)
        self.texts: list[tuple[KVCache, list[int]]] = []

    @rule()
    def start(self) -> None:
        if len(self.texts) < 6:
            self.texts.append((KVCache(self.pool, 1000), []))

    @precondition(lambda self: self.texts)
    @rule(data=st.data(), count=st.integers(1, 200), token=st.integers(0, 3))
    def append(self, data: st.DataObject, count: int, token: int) -> None:
        cache, text = data.draw(st.sampled_from(self.texts))
        if len(text) + count <= 1000:
            write(cache, [token] * count)
            text += [token] * count

    @precondition(lambda self: self.texts)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        cache, text = data.draw(st.sampled_from(self.texts))
        if len(self.texts) < 6:
            self.texts.append((cache.fork(), text.copy()))

    @precondition(lambda self: self.texts)
    @rule(data=st.data(), share=st.floats(0, 1))
    def truncate(self, data: st.DataObject, share: float) -> None:
        cache, text = data.draw(st.sampled_from(self.texts))
        length = int(len(text) * share)
        cache.truncate(length)
        del text[length:]

    @precondition(lambda self: self.texts)
    @rule(data=st.data())
    def reuse(self, data: st.DataObject) -> None:
        cache, text = data.draw(st.sampled_from(self.texts))
        _, other = data.draw(st.sampled_from(self.texts))
        if other:
            length = cache.reuse([*other, 9])
            text[:] = [*other, 9][:length]

    @precondition(lambda self: self.texts)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(self.texts))
        entry[0].close()
        self.texts.remove(entry)

    @invariant()
    def every_text_is_whole(self) -> None:
        for cache, text in self.texts:
            assert list(cache.tokens) == text
            assert read(cache) == text

    @invariant()
    def pages_are_counted(self) -> None:
        held = [page for cache, _ in self.texts for page in cache.pages if page is not None]
        assert self.pool.num_owned == len({id(page) for page in held})
        for page in held:
            assert page.num_owners == sum(other is page for other in held)
        assert self.pool.idle_bytes <= self.pool.limit_bytes


TestSequences = Sequences.TestCase
TestSequences.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
