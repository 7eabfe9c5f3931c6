"""The kernels that attend many tokens over the card's pages, in their CPU form."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
import pytest
from doubles.warps import warp_runner
from harness.cards import Array, CardCache, Part

from edgellama.cuda.kernels.tile_moves import THREADS, Copy
from edgellama.cuda.layouts import count_tiles, row_parts
from edgellama.cuda.prefill_parts import TICKETS_OF_BLOCK, block_partial_bytes, prefill_tasks
from edgellama.cuda.prefill_tiles import (
    TURING_WIDTHS,
    WIDTHS,
    PlainTile,
    TensorTile,
    Tile,
    width_of,
)
from edgellama.cuda.signatures import CARD_KERNELS, CARD_SIGNATURES, TENSOR_TYPES
from edgellama.engine.pages.card_numbers import card_numbers
from edgellama.kernels_cpu.layouts import ALL_KEYS, PAGE_POSITIONS
from edgellama.kernels_cpu.signatures import CACHE_TYPES

LOG2_E = 1.4426950408889634
LOSSES = {"f16": 2e-3, "bf16": 1.6e-2, "q8_0": 2e-3, "q4_0": 2e-3}
"""What weights and values lose as the numbers that are multiplied, where results are around 1."""
SM_86_SHARED_BYTES = 99 * 1024
"""Of a block at most, on the card since Ampere that has least."""
TURING_SHARED_BYTES = 64 * 1024
"""The same of Turing's."""


@dataclass(frozen=True)
class Shape:
    """A kernel, and what it attends over: tokens of sequences behind others that are stored."""

    family: str
    kinds: tuple[str, str]
    head_size: int
    kv_heads: int
    group: int
    parts: tuple[Part, ...]
    window: int = ALL_KEYS
    split_keys: int = ALL_KEYS
    at_once: int = 1

    def error_in(self, new_cache: Callable[..., CardCache]) -> float:
        """How far the largest error is from what may be lost, 1 at most.

        Against the formula over what is stored; everything else in pages is garbage.
        """
        lengths = [part.position + part.num_tokens for part in self.parts]
        cache = new_cache(
            self.kinds, self.head_size, self.kv_heads, self.group, len(lengths), max(lengths),
            self.window,
        )  # fmt: skip
        rng = np.random.default_rng(self.head_size)
        for number, length in enumerate(lengths):
            fill(cache, number, length, rng)
        rows = sum(part.num_tokens for part in self.parts)
        q = 2 * rng.normal(size=(rows, cache.heads, self.head_size)).astype(np.float32)
        expected = cache.naive(self.parts, q)
        errors = np.abs(self.attend_in(cache, q) - expected)
        return float(np.nan_to_num(errors, nan=np.inf).max()) / self.loss(expected)

    def attend_in(self, cache: CardCache, q: Array) -> Array:
        """What the kernel gives."""
        return attend(cache, self.kernel, self.parts, q, self.split_keys, self.at_once)

    def loss(self, expected: Array) -> float:
        """What may be lost."""
        return 1e-5 if self.family == PLAIN else max(LOSSES[kind] for kind in self.kinds)

    @property
    def kernel(self) -> str:
        """The kernel's name."""
        return "_".join((self.family, *self.kinds, str(width_of(self.head_size))))


def fill(cache: CardCache, sequence: int, length: int, rng: np.random.Generator) -> None:
    """Random numbers at the first positions of a sequence; those behind are NaN."""
    for number in range(-(-length // PAGE_POSITIONS)):
        used = length - number * PAGE_POSITIONS
        parts = card_numbers(cache.page(sequence, number), cache.layout)
        for kind, part in zip(cache.kinds, parts, strict=True):
            shape = part.numbers().shape
            numbers = random_numbers(kind, shape, rng)
            scales = part.scales()
            if scales is None:
                numbers[:, :, used:] = np.iinfo(numbers.dtype).max
            else:
                new = rng.uniform(0.5, 1.5, scales.shape) / RANGES[kind]
                bits = new.astype(np.float16).view("u2")
                bits[:, :, used:] = 0xFFFF
                part.write_scales(bits)
            part.write_numbers(numbers)


RANGES = {"q8_0": 128, "q4_0": 8}
"""What the numbers of quantized types are divided by, to be within 1.5."""


def random_numbers(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Bits of numbers of a type."""
    if kind in RANGES:
        return rng.integers(0, 16 if kind == "q4_0" else 256, shape).astype(np.uint8)
    values = rng.normal(size=shape).astype(np.float32)
    if kind == "f16":
        return values.astype(np.float16).view("u2")
    return values.view("u4") if kind == "f32" else (values.view("u4") >> 16).astype("u2")


def attend(
    cache: CardCache, name: str, parts: Sequence[Part], q: Array, split_keys: int = ALL_KEYS,
    at_once: int = 1,
) -> Array:  # fmt: skip
    """Results of all rows, (tokens, heads, size); so many blocks ``at_once``, in any order."""
    group = cache.heads // cache.kv_heads
    blocks = cache.kv_heads * row_parts(group)
    counts = [
        prefill_tasks(part.position, part.num_tokens, group, split_keys, cache.window)
        for part in parts
    ]
    room = [np.full(count * blocks * block_partial_bytes(cache.head_size), 0xFF, np.uint8)
            for count in counts]  # fmt: skip
    tickets = [
        np.zeros(count_tiles(part.num_tokens, group) * blocks * TICKETS_OF_BLOCK, np.int32)
        for part in parts
    ]
    first_tasks = np.cumsum([0, *counts]).tolist()
    table = cache.segments(parts, first_tasks, split_keys, room, tickets)
    y = np.full(q.shape, np.nan, np.float32)
    cache.runner.call(
        name, (first_tasks[-1], cache.kv_heads, row_parts(group)),
        CARD_SIGNATURES[CARD_KERNELS[name]].shared_bytes(cache.head_size), at_once=at_once, q=q,
        q_stride=q.strides[0], y=y, y_stride=y.strides[0], segments=table, window=cache.window,
        scale=LOG2_E / math.sqrt(cache.head_size), first_block=0, **cache.layer(),
    )  # fmt: skip
    assert not any(ticket.any() for ticket in tickets), "tickets are not given back"
    return y


MANY, TURING, PLAIN = "card_attend_many", "card_attend_many_turing", "card_attend_many_plain"
RAGGED = (Part(0, 200, 100), Part(1, 0, 77), Part(2, 100, 40))
DEEP = (Part(0, 500, 17), Part(1, 120, 9), Part(2, 0, 40))
LATE, LONG = (Part(0, 150, 50),), (Part(0, 10, 140),)
SHAPES = (
    Shape(MANY, ("f16", "f16"), 64, 2, 3, RAGGED),
    Shape(MANY, ("q8_0", "bf16"), 100, 1, 4, LONG, window=33),
    Shape(MANY, ("q8_0", "bf16"), 100, 1, 4, DEEP, split_keys=128, at_once=2),
    Shape(MANY, ("q4_0", "q8_0"), 80, 1, 8, LATE, window=100),
    Shape(TURING, ("f16", "q4_0"), 96, 1, 1, LATE),
    Shape(TURING, ("bf16", "bf16"), 90, 2, 3, DEEP, window=200, split_keys=128),
    Shape(PLAIN, ("f32", "f32"), 80, 1, 3, RAGGED, window=90),
    Shape(PLAIN, ("f32", "f32"), 66, 1, 3, DEEP, split_keys=256),
)
"""Together they have each type as keys or values, and both ways to shared memory."""
MORE_SHAPES = (
    Shape(MANY, ("bf16", "bf16"), 80, 1, 4, LONG),
    Shape(MANY, ("f16", "f16"), 128, 1, 4, RAGGED),
    Shape(MANY, ("f16", "bf16"), 96, 2, 1, LONG, window=1),
    Shape(MANY, ("q8_0", "q8_0"), 256, 1, 1, LONG),
    Shape(MANY, ("q4_0", "q4_0"), 144, 1, 3, LATE),
    Shape(MANY, ("bf16", "q4_0"), 36, 3, 1, LONG),
    Shape(MANY, ("f16", "f16"), 6, 1, 71, (Part(0, 30, 9),)),
    Shape(MANY, ("q4_0", "q4_0"), 16, 1, 2, LONG),
    Shape(TURING, ("q8_0", "q8_0"), 128, 2, 3, RAGGED, window=70),
    Shape(TURING, ("bf16", "q8_0"), 64, 1, 4, RAGGED),
    Shape(PLAIN, ("f32", "q4_0"), 36, 2, 1, LONG),
    Shape(PLAIN, ("q8_0", "bf16"), 100, 1, 4, LATE),
    Shape(PLAIN, ("f32", "f32"), 256, 1, 8, LATE),
    Shape(PLAIN, ("f16", "f32"), 6, 1, 71, (Part(0, 30, 9),)),
    Shape(MANY, ("f16", "f16"), 6, 1, 71, (Part(0, 300, 9),), split_keys=128),
    Shape(MANY, ("q8_0", "q8_0"), 256, 1, 1, DEEP, split_keys=256, at_once=2),
    Shape(PLAIN, ("f32", "f32"), 256, 1, 8, DEEP, window=130, split_keys=128, at_once=2),
    Shape(PLAIN, ("f16", "f32"), 6, 1, 71, (Part(0, 300, 9),), split_keys=128),
)


def shape_name(shape: Shape) -> str:
    """How pytest shows it."""
    kernel, (keys, values) = shape.family.removeprefix("card_"), shape.kinds
    split = "" if shape.split_keys == ALL_KEYS else f"-{shape.split_keys}"
    return f"{kernel}-{keys}-{values}-{shape.head_size}-{shape.group}{split}"


@pytest.fixture(scope="module")
def kernels() -> None:
    """Kernels that all tests need, compiled together."""
    warp_runner().preload({shape.kernel for shape in SHAPES})


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("shape", SHAPES, ids=shape_name)
def test_rows_are_what_the_formula_gives(shape: Shape) -> None:
    """Ragged segments, windows, mixed types: softmax(q k) v of the keys that each row sees."""
    assert shape.error_in(partial(CardCache, warp_runner())) < 1


@pytest.mark.slow
@pytest.mark.parametrize("shape", MORE_SHAPES, ids=shape_name)
def test_more_shapes(shape: Shape) -> None:
    """Prompts of other types, sizes and groups have the same results."""
    assert shape.error_in(partial(CardCache, warp_runner())) < 1


def test_bfloat16_beyond_halves_is_finite() -> None:
    """Turing multiplies halves: what is larger becomes the largest, what is tiny nearly stays."""
    cache = CardCache(warp_runner(), ("bf16", "bf16"), 90, 2, 3, 1, 40, ALL_KEYS)
    rng = np.random.default_rng(0)
    fill(cache, 0, 40, rng)
    for kind, part in zip(cache.kinds, card_numbers(cache.page(0, 0), cache.layout), strict=True):
        numbers = part.numbers()
        scales = np.where(rng.random(numbers[:, :, :40].shape) < 0.5, 3e-6, 1).astype("f4")
        numbers[:, :, :40] = random_numbers(kind, scales.shape, rng)
        small = (numbers[:, :, :40].astype("u4") << 16).view("f4") * scales
        numbers[:, :, :40] = (small.view("u4") >> 16).astype("u2")
        part.write_numbers(numbers)
    parts, q = (Part(0, 20, 20),), rng.normal(size=(20, 6, 90)).astype("f4")
    kernel = "card_attend_many_turing_bf16_bf16_96"
    found = attend(cache, kernel, parts, q)
    np.testing.assert_allclose(found, cache.naive(parts, q), atol=LOSSES["f16"], rtol=0)
    for value in (3e38, -3e38, 7e4):
        numbers[:, :, 5, 0] = int(np.array(value, "f4").view("u4")) >> 16
        part.write_numbers(numbers)
        found = attend(cache, kernel, parts, q)
        assert np.isfinite(found).all() and np.abs(found[:, 0, 0]).max() > 1000
    found = attend(cache, kernel, parts, np.where(q < 2, q, 1e30).astype("f4"))
    assert np.isfinite(found).all()


def test_blocks_fit_the_card() -> None:
    """Shared memory of a block is what cards have; two blocks fit up to heads of 128."""
    for pair, width in product(product(CACHE_TYPES, CACHE_TYPES), WIDTHS):
        assert PlainTile(pair, width).shared_bytes <= TURING_SHARED_BYTES
    for pair, width in product(product(TENSOR_TYPES, TENSOR_TYPES), WIDTHS):
        if width in TURING_WIDTHS:
            assert TensorTile(pair, width, True).shared_bytes <= TURING_SHARED_BYTES // 2
        tile = TensorTile(pair, width)
        assert tile.shared_bytes <= SM_86_SHARED_BYTES // (1 if width > 128 else 2)
        assert tile.values_at % 16 == tile.value_stride % 16 == tile.query_stride % 16 == 0


@pytest.mark.parametrize("is_keys", [True, False])
def test_each_chunk_of_a_tile_is_moved_once(is_keys: bool) -> None:
    """The moves of all threads are the chunks of all positions of a tile, for all kernels."""
    tiles: list[Tile] = []
    for pair, width in product(product(CACHE_TYPES, CACHE_TYPES), WIDTHS):
        tiles.append(PlainTile(pair, width))
        if {*pair} <= {*TENSOR_TYPES}:
            tiles += [TensorTile(pair, width, is_turing) for is_turing in (False, True)]
    for tile in tiles:
        copy = Copy(tile.kinds[0 if is_keys else 1], is_keys, tile)
        outer, inner = divmod(np.arange(THREADS), copy.slots)
        steps = copy.step * np.arange(copy.moves)[:, None]
        moved = zip((outer + steps).flat, np.tile(inner, copy.moves), strict=True)
        places = [place if is_keys else place[::-1] for place in moved]
        real = [place for place in places if place[0] < copy.chunks]
        assert sorted(real) == list(product(range(copy.chunks), range(tile.num_keys)))
