"""Tiles for the scale search, with one block in each lane of a vector.

Vector ``i`` of a tile holds element ``i`` of all its blocks. So a search needs only arithmetic
within lanes, no sums across them, and gives the same bits at every vector width. A table of
addresses says where the blocks come from; lanes without a block repeat the last one.
"""

from __future__ import annotations

from edgellama.kernels_cpu.simd import operators  # noqa: F401
from edgellama.kernels_cpu.simd.device import exact_device
from edgellama.kernels_cpu.simd.rounding import load_i32, write_i16, write_i32, write_i64
from edgellama.kernels_cpu.simd.tiles import transpose_scattered
from edgellama.kernels_cpu.simd.vectors import f32_zeros, lane_count, read_u32


@exact_device
def vector_bytes():
    """Bytes of one vector of a tile."""
    return 4 * lane_count()


@exact_device
def at_vector(scratch, number):
    """Address of a vector of the scratch memory."""
    return scratch + number * vector_bytes()


@exact_device
def point_at_blocks(table, base, first, num_blocks, blocks_per_row, num_bytes):
    """Addresses of blocks ``first`` and on, of ``num_bytes`` each, starting anew with every row."""
    for lane in range(lane_count()):
        block = min(first + lane, num_blocks - 1)
        write_i64(table + 8 * lane, base + block % blocks_per_row * num_bytes)


@exact_device
def load_tile(table, num_elements, tile):
    """The f32 that the table points at; ``num_elements`` is a multiple of 32."""
    for i in range(0, num_elements, lane_count()):
        transpose_scattered(table, 4 * i, tile + i * vector_bytes())


@exact_device
def four_bytes(integers, element):
    """The i32 vectors ``element`` and the three after it, below 256, as bytes of one word."""
    at, size = integers + element * vector_bytes(), vector_bytes()
    like = f32_zeros()
    low = load_i32(at, like) | load_i32(at + size, like) << 8
    return low | load_i32(at + 2 * size, like) << 16 | load_i32(at + 3 * size, like) << 24


@exact_device
def write_words(words, num_words, block, block_bytes, num_blocks):
    """The first ``num_blocks`` lanes of i32 vectors as consecutive words of their blocks."""
    for lane in range(num_blocks):
        source, target = words + 4 * lane, block + lane * block_bytes
        for word in range(num_words):
            write_i32(target + 4 * word, read_u32(source + word * vector_bytes()))


@exact_device
def write_halves(words, block, block_bytes, num_blocks):
    """The low 16 bits of the first ``num_blocks`` lanes, one to each block."""
    for lane in range(num_blocks):
        write_i16(block + lane * block_bytes, read_u32(words + 4 * lane))
