"""Reads rows of Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0 side by side, one row in each lane.

The layout of a block is described in ``blocks_legacy``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from edgellama.kernels_cpu.formats.block_code import Reader
from edgellama.kernels_cpu.formats.panel_code import (
    PanelCode,
    for_words,
    high_nibbles,
    leave_minimum,
    leave_scale,
    low_nibbles,
    merge_words,
    twice,
)
from edgellama.kernels_cpu.layouts import SUPER_BLOCK
from edgellama.kernels_cpu.simd.device import device
from edgellama.kernels_cpu.simd.fifth_bits import define_fifth_bits_of_words
from edgellama.kernels_cpu.simd.rows_in_lanes import (
    blocks_in_reach,
    define_at_blocks,
    half_of_words,
    halves_at,
    load_words,
    words_at,
)
from edgellama.kernels_cpu.simd.weight_bytes import as_weights
from edgellama.quant.formats import FORMATS_BY_NAME


def for_blocks(number: str, block_bytes: int, leave: Reader) -> Reader:
    """A device function: ``leave`` of what begins each of some blocks, and of its number."""
    at, num_bytes = (halves_at, 2) if number == "i16" else (words_at, 4)
    at_once, at_blocks = (
        blocks_in_reach(block_bytes, num_bytes),
        define_at_blocks(number, block_bytes),
    )

    @device
    def leave_two(base, steps, block, room):
        values = at_blocks(base, steps)
        leave(room, block, values[0])
        leave(room, block + 1, values[1])

    @device
    def leave_four(base, steps, block, room):
        values = at_blocks(base, steps)
        leave(room, block, values[0])
        leave(room, block + 1, values[1])
        leave(room, block + 2, values[2])
        leave(room, block + 3, values[3])

    leave_some = leave_two if at_once == 2 else leave_four

    def scales(base, steps, num_blocks, room):
        together = num_blocks // at_once * at_once
        for block in range(0, together, at_once):
            leave_some(base + block * block_bytes, steps, block, room)
        for block in range(together, num_blocks):
            leave(room, block, at(base + block * block_bytes, steps))

    return device(scales)


def _block_bytes(name: str) -> int:
    return FORMATS_BY_NAME[name].block_bytes


def define_scales(name: str) -> Reader:
    """Reads a half scale at the begin of every block of a format."""
    return for_blocks("i16", _block_bytes(name), leave_scale)


@device
def leave_scale_and_minimum(room, block, words):
    leave_scale(room, block, half_of_words(words, 0))
    leave_minimum(room, block, half_of_words(words, 1))


def _define_scales_and_minimums(name: str) -> Reader:
    """The same for a half scale and a half minimum."""
    return for_blocks("i32", _block_bytes(name), leave_scale_and_minimum)


def _define_nibbles(name: str, first: int) -> Reader:
    """16 bytes of nibbles from byte ``first`` of a block on, the low ones first."""
    block_bytes = _block_bytes(name)

    def quants(base, steps, part, room):
        words = load_words(base + part * block_bytes + first, steps)
        return low_nibbles(words), high_nibbles(words)

    return device(quants)


fifth_of_low, fifth_of_high = define_fifth_bits_of_words(0), define_fifth_bits_of_words(1)


def _define_five_bits(name: str, bits: int, first: int) -> Reader:
    """The same, with fifth bits in the four bytes from byte ``bits`` on."""
    nibbles, block_bytes = _define_nibbles(name, first), _block_bytes(name)

    def quants(base, steps, part, room):
        low, high = nibbles(base, steps, part, room)
        fifth = words_at(base + part * block_bytes + bits, steps)
        return merge_words(low, fifth_of_low(fifth)), merge_words(high, fifth_of_high(fifth))

    return device(quants)


weights_of_words = for_words(as_weights)


@device
def q8_0_words(base, steps, part, room):
    at = base + part * 34 + 2
    return weights_of_words(load_words(at, steps)), weights_of_words(load_words(at + 16, steps))


def block_panels(name: str, scales: Reader, quants: Reader) -> PanelCode:
    """A format of blocks of 32, each a part of its segment."""
    return PanelCode(FORMATS_BY_NAME[name], SUPER_BLOCK, scales, quants, twice, 1)


LEGACY_PANELS: Mapping[str, PanelCode] = MappingProxyType(
    {
        code.format.name: code
        for code in (
            block_panels("Q4_0", define_scales("Q4_0"), _define_nibbles("Q4_0", 2)),
            block_panels("Q4_1", _define_scales_and_minimums("Q4_1"), _define_nibbles("Q4_1", 4)),
            block_panels("Q5_0", define_scales("Q5_0"), _define_five_bits("Q5_0", 2, 6)),
            block_panels(
                "Q5_1", _define_scales_and_minimums("Q5_1"), _define_five_bits("Q5_1", 4, 8)
            ),
            block_panels("Q8_0", define_scales("Q8_0"), q8_0_words),
        )
    }
)
"""Per format name, how its panels are read."""
