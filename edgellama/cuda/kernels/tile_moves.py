"""Which thread copies which 16 bytes of a tile, from where in a page to where in shared memory.

A thread makes several moves, each a fixed distance after the one before, so that an address is the
sum of a start and a constant. The copying itself is left to ``tile_copies``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgellama.cuda.kernels.lanes import each
from edgellama.cuda.kernels.tile_registers import constants
from edgellama.cuda.layouts import CHUNK_BYTES, WARP, num_chunks
from edgellama.cuda.prefill_tiles import TILE_WARPS, Tile
from edgellama.kernels_cpu.layouts import CACHE_SCALE_BYTES, PAGE_POSITIONS
from edgellama.kernels_cpu.signatures import CACHE_NUMBER_BITS, CACHE_SCALE_ELEMENTS
from edgellama.kernels_cpu.simd.vectors import I64

THREADS = TILE_WARPS * WARP


@dataclass(frozen=True)
class Copy:
    """Moves of 16 bytes that bring the keys or the values of a tile: who moves what."""

    kind: str
    is_keys: bool
    tile: Tile

    @property
    def elements(self) -> int:
        """Elements of a chunk."""
        return 8 * CHUNK_BYTES // CACHE_NUMBER_BITS[self.kind]

    @property
    def chunks(self) -> int:
        """Chunks of a position, for the whole width."""
        return num_chunks(self.tile.width, CACHE_NUMBER_BITS[self.kind])

    @property
    def has_scales(self) -> bool:
        """Whether numbers are quantized."""
        return self.kind in CACHE_SCALE_ELEMENTS

    @property
    def is_asynchronous(self) -> bool:
        """Whether nothing is in registers on the way."""
        return self.tile.is_asynchronous(self.kind)

    @property
    def words(self) -> int:
        """Words of a thread that are under way between ``fetch`` and ``settle``."""
        is_under_way = self.tile.asks_ahead and not self.is_asynchronous
        return self.moves * (4 + self.has_scales) if is_under_way else 0

    @property
    def slots(self) -> int:
        """Neighbouring threads that move neighbouring chunks, before the next row of them."""
        if self.is_keys:
            return self.tile.num_keys
        return max(1 << (self.chunks - 1).bit_length(), THREADS // self.tile.num_keys)

    @property
    def step(self) -> int:
        """How many chunks of keys, or positions of values, a move is behind the one before."""
        return THREADS // self.slots

    @property
    def moves(self) -> int:
        """Of one thread, the last perhaps not of all."""
        return -(-(self.chunks if self.is_keys else self.tile.num_keys) // self.step)

    def first(self, builder: Any, thread: Any) -> tuple[Any, Any]:
        """Chunk and position of each thread's first move."""
        slots = each(thread.type, self.slots)
        outer, inner = builder.udiv(thread, slots), builder.urem(thread, slots)
        return (outer, inner) if self.is_keys else (inner, outer)

    def is_real(self, builder: Any, chunk: Any, move: int) -> Any:
        """Which threads have the move, whose first chunk is ``chunk``; None for all."""
        if self.is_keys:
            left, slots = self.chunks - move * self.step, self.step
        else:
            left, slots = self.chunks, self.slots
        return None if left >= slots else builder.icmp_signed("<", chunk, each(chunk.type, left))

    def source(self, builder: Any, chunk: Any, position: Any, row_bytes: Any) -> Any:
        """Where the chunk of a first move lies, in bytes behind the tile's first.

        ``row_bytes`` are from one position to the next.
        """
        number = constants(builder, chunk)
        per_chunk = (PAGE_POSITIONS if self.is_keys else 1) * CHUNK_BYTES
        offset = builder.mul(chunk, number(per_chunk))
        return builder.add(builder.mul(position, row_bytes), offset)

    def source_step(self, builder: Any, row_bytes: Any) -> Any:
        """Bytes from the source of one move to the next's, an int64."""
        if self.is_keys:
            return I64(self.step * PAGE_POSITIONS * CHUNK_BYTES)
        return builder.mul(row_bytes, I64(self.step))

    @property
    def chunks_per_scale(self) -> int:
        """Chunks that share a scale."""
        return CACHE_SCALE_ELEMENTS[self.kind] // self.elements

    def scale_source(self, builder: Any, chunk: Any, position: Any, move: int) -> Any:
        """Where the scale of a move's chunk lies, in bytes behind that of the tile's first."""
        number = constants(builder, chunk)
        if self.is_keys:
            chunk = builder.add(chunk, number(move * self.step))
            group = builder.udiv(chunk, number(self.chunks_per_scale))
            place = builder.add(builder.mul(group, number(PAGE_POSITIONS)), position)
        else:
            position = builder.add(position, number(move * self.step))
            group = builder.udiv(chunk, number(self.chunks_per_scale))
            groups = -(-self.chunks // self.chunks_per_scale)
            place = builder.add(builder.mul(position, number(groups)), group)
        return builder.mul(place, number(CACHE_SCALE_BYTES))

    def target(self, builder: Any, chunk: Any, position: Any) -> Any:
        """Where the first elements of a first move go, behind the tile's place."""
        number = constants(builder, chunk)
        row_bytes, part_bytes = self.tile.strides(is_keys=self.is_keys)
        offset = builder.mul(chunk, number(self.parts * part_bytes))
        return builder.add(offset, builder.mul(position, number(row_bytes)))

    @property
    def parts(self) -> int:
        """Stores of 16 bytes that a chunk expands to."""
        return self.elements // self.tile.part_elements

    def target_offset(self, move: int, part: int) -> int:
        """Bytes from where the first part of the first move goes to where another does."""
        row_bytes, part_bytes = self.tile.strides(is_keys=self.is_keys)
        steps = self.parts * part_bytes if self.is_keys else row_bytes
        return move * self.step * steps + part * part_bytes
