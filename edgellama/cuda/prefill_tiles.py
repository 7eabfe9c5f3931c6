"""Tiles of the kernels that attend many tokens: their sizes, and their places in shared memory.

A block attends 64 query rows to one tile of keys after another. The host and the kernels share
these plain records. ``width`` is the size of a head rounded up to a multiple of 16, as registers
hold it. How a tile is filled and multiplied is left to the modules ``tile_*`` and ``*_attention``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from edgellama.cuda.layouts import (
    CHUNK_BYTES,
    MAX_HEAD_SIZE,
    TILE_ROWS,
    WARP,
    num_chunks,
)
from edgellama.kernels_cpu.layouts import round_up
from edgellama.kernels_cpu.signatures import CACHE_NUMBER_BITS, CACHE_SCALE_ELEMENTS

WIDTH_STEP = 16
"""Elements of a head that tensor cores take at once."""
WIDTHS = tuple(range(WIDTH_STEP, MAX_HEAD_SIZE + 1, WIDTH_STEP))
NARROW = 128
"""Up to this width queries stay in registers, and so may keys and values that are under way."""
TURING_WIDTHS = tuple(width for width in WIDTHS if width <= NARROW)
"""Those for which Turing's cards have enough registers and shared memory."""
HALF_BYTES = 2
CHUNK_HALVES = CHUNK_BYTES // HALF_BYTES
TILE_WARPS = 4
"""Warps of a block, each with its own rows."""
WARP_ROWS = TILE_ROWS // TILE_WARPS
LANE_GROUPS = 4
"""Groups of eight lanes that share rows, without tensor cores."""
OUTPUT_ROWS = WARP_ROWS // 2
"""Rows of a warp whose results pass through shared memory at once."""


def width_of(head_size: int) -> int:
    """The width of the kernel for a head's size."""
    return round_up(head_size, WIDTH_STEP)


def blocks_of(
    pair: tuple[str, str], width: int, *, is_plain: bool = False, is_turing: bool = False
) -> int:
    """Blocks that a multiprocessor is to have at once: as many as its memory and registers allow.

    What is expanded on the way to shared memory needs registers, and so do products without
    tensor cores.
    """
    expanded = {*CACHE_SCALE_ELEMENTS, *(["bf16"] if is_turing else [])}
    if width <= NARROW // 2 and not is_plain and not {*pair} & expanded:
        return 3
    return 2 if width <= NARROW else 1


@dataclass(frozen=True)
class LaneRows:
    """Which rows of its warp a lane has: ``lane // lanes * near + i * far`` for ``count`` of i.

    ``lanes`` neighbours have the same rows, each with ``key_step`` keys side by side.
    """

    count: int
    lanes: int
    near: int
    far: int
    key_step: int

    @property
    def distances(self) -> tuple[int, ...]:
        """Between lanes that have the same rows, as bits of their numbers."""
        return tuple(bit for bit in (1, 2, 4, 8, 16) if bit < self.lanes)


TENSOR_ROWS = LaneRows(2, 4, 1, 8, 2)
"""As tensor cores give sums to lanes."""


@dataclass(frozen=True)
class TensorTile:
    """Keys and values of a tile as halves or bfloat16, in chunks of eight elements.

    Turing's tensor cores know no bfloat16, of which halves are made there. Keys lie as in a page, a
    chunk of all positions after the other. Values, queries and results are rows, an odd number of
    chunks apart, so that eight neighbours lie in different banks.
    """

    kinds: tuple[str, str]
    width: int
    is_turing: bool = False

    @property
    def num_keys(self) -> int:
        """Keys of a tile; with fewer, Turing's smaller memory has room for more blocks."""
        return 64 if self.width <= NARROW and not self.is_turing else 32

    @property
    def multiplied(self) -> tuple[str, str]:
        """What numbers of keys, and of values, are for tensor cores."""
        keys, values = (
            "bf16" if kind == "bf16" and not self.is_turing else "f16" for kind in self.kinds
        )
        return keys, values

    def is_asynchronous(self, kind: str) -> bool:
        """Whether chunks of a type are copied to shared memory past the registers."""
        return not self.is_turing and kind not in CACHE_SCALE_ELEMENTS

    @property
    def asks_ahead(self) -> bool:
        """Whether chunks that go through registers are asked for while others are multiplied."""
        return self.width <= NARROW

    @property
    def keeps_queries(self) -> bool:
        """Whether queries stay in registers from tile to tile."""
        return self.width <= NARROW

    @property
    def part_elements(self) -> int:
        """Elements that are stored at once."""
        return CHUNK_HALVES

    def strides(self, *, is_keys: bool) -> tuple[int, int]:
        """Bytes from one position to the next, and from eight elements to the next eight."""
        if is_keys:
            return CHUNK_BYTES, self.num_keys * CHUNK_BYTES
        return self.value_stride, CHUNK_BYTES

    @property
    def rows(self) -> LaneRows:
        """The rows of a lane."""
        return TENSOR_ROWS

    @property
    def warp_rows(self) -> int:
        """Rows of a warp."""
        return WARP_ROWS

    @property
    def score_places(self) -> tuple[tuple[int, int], ...]:
        """Of each score of a lane, which of its rows, and the key less those of the lane's place.

        Of each eight keys a lane has two, of both rows.
        """
        pairs = range(0, self.num_keys, 8)
        return tuple((row, key + i) for key in pairs for row in range(2) for i in range(2))

    @property
    def result_rows(self) -> tuple[int, ...]:
        """Of each result of a lane, which of its rows."""
        return (0, 0, 1, 1) * (self.width // 8)

    @property
    def value_stride(self) -> int:
        """Bytes from one position's values to the next."""
        return _odd_stride(_num_elements(self.kinds[1], self.width))

    @property
    def query_stride(self) -> int:
        """Bytes from one query row to the next."""
        return _odd_stride(self.width)

    @property
    def output_stride(self) -> int:
        """Bytes from one row of results to the next; no two of four lie in the same banks."""
        return 4 * (self.width + 8)

    @property
    def values_at(self) -> int:
        """Where values lie, behind the keys."""
        return _num_elements(self.kinds[0], self.width) * HALF_BYTES * self.num_keys

    @property
    def queries_at(self) -> int:
        """Where queries lie: for a while where values come later, or behind these."""
        if self.keeps_queries:
            return self.values_at
        return self.values_at + self.num_keys * self.value_stride

    @property
    def shared_bytes(self) -> int:
        """Of a block: keys, values and queries, or results, which come when these are done."""
        values = self.values_at + self.num_keys * self.value_stride
        queries = self.queries_at + TILE_ROWS * self.query_stride
        return max(values, queries, TILE_WARPS * OUTPUT_ROWS * self.output_stride)


@dataclass(frozen=True)
class PlainTile:
    """Keys or values of a tile, and queries, as rows of f32 an odd number of chunks apart.

    A lane has some rows, alike with its seven neighbours. Where heads are wide, a block takes its
    rows in two passes.
    """

    kinds: tuple[str, str]
    width: int

    @property
    def rows(self) -> LaneRows:
        """The rows of a lane."""
        count = 4 if self.width <= NARROW else 2
        return LaneRows(count, WARP // LANE_GROUPS, count, 1, 1)

    @property
    def warp_rows(self) -> int:
        """Rows of a warp."""
        return LANE_GROUPS * self.rows.count

    @property
    def lane_keys(self) -> int:
        """Keys of a lane, eight apart."""
        return self.num_keys // self.rows.lanes

    @property
    def score_places(self) -> tuple[tuple[int, int], ...]:
        """As of a ``TensorTile``: row after row."""
        keys = range(0, self.num_keys, self.rows.lanes)
        return tuple((row, key) for row in range(self.rows.count) for key in keys)

    @property
    def lane_columns(self) -> int:
        """Fours of a row's results that a lane has, 32 elements apart."""
        return -(-self.width // (4 * self.rows.lanes))

    @property
    def result_rows(self) -> tuple[int, ...]:
        """Of each result of a lane, which of its rows."""
        each_row = 4 * self.lane_columns
        return tuple(row for row in range(self.rows.count) for _ in range(each_row))

    @property
    def block_rows(self) -> int:
        """Rows of a block in one pass."""
        return TILE_WARPS * self.warp_rows

    @property
    def num_keys(self) -> int:
        """Keys of a tile."""
        return 32 if self.width <= NARROW else 16

    @property
    def asks_ahead(self) -> bool:
        """Nothing is asked for before its place is free."""
        return False

    def is_asynchronous(self, kind: str) -> bool:
        """All go through registers."""
        return False

    @property
    def part_elements(self) -> int:
        """Elements that are stored at once."""
        return CHUNK_BYTES // 4

    def strides(self, *, is_keys: bool) -> tuple[int, int]:
        """Bytes from one position to the next, and from four elements to the next four."""
        return self.row_stride, CHUNK_BYTES

    @property
    def row_stride(self) -> int:
        """Bytes from one row to the next: as many as whole chunks of both types expand to."""
        columns = max(_num_elements(kind, self.width) for kind in self.kinds)
        return 4 * columns + CHUNK_BYTES

    @property
    def query_stride(self) -> int:
        """The same of queries."""
        return self.row_stride

    @property
    def weights_at(self) -> int:
        """Where weights lie, behind the keys or values."""
        return self.num_keys * self.row_stride

    @property
    def warp_weights_bytes(self) -> int:
        """Of the weights of a warp's rows."""
        return self.warp_rows * self.num_keys * 4

    @property
    def queries_at(self) -> int:
        """Where queries lie, behind the weights."""
        return self.weights_at + TILE_WARPS * self.warp_weights_bytes

    @property
    def shared_bytes(self) -> int:
        """Of a block."""
        return self.queries_at + self.block_rows * self.row_stride


Tile: TypeAlias = "TensorTile | PlainTile"


def _num_elements(kind: str, width: int) -> int:
    """Elements that whole chunks of a page expand to."""
    bits = CACHE_NUMBER_BITS[kind]
    return num_chunks(width, bits) * 8 * CHUNK_BYTES // bits


def _odd_stride(num_halves: int) -> int:
    """Bytes of a row of so many halves in an odd number of chunks."""
    return (num_halves // CHUNK_HALVES | 1) * CHUNK_BYTES
