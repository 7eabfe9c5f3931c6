"""Reads rows of Q2_K to Q6_K side by side, one row in each lane.

The layout of a super-block is described in ``blocks_kquants``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from edgellama.kernels_cpu.formats.block_code import Reader
from edgellama.kernels_cpu.formats.panel_code import (
    SPARE_AT,
    PanelCode,
    define_bits,
    high_nibbles,
    in_room,
    leave_minimum,
    leave_scale,
    low_nibbles,
    merge_words,
)
from edgellama.kernels_cpu.simd.arithmetic import mul
from edgellama.kernels_cpu.simd.device import device
from edgellama.kernels_cpu.simd.integers import flip_sign_bits, merge, shift_all
from edgellama.kernels_cpu.simd.rows_in_lanes import (
    bits_at,
    half_of_words,
    halves_at,
    load_words,
    signed_byte,
    unsigned_byte,
    words_at,
)
from edgellama.kernels_cpu.simd.vectors import f32_zeros, load_bytes, splat_f32, store
from edgellama.quant.formats import FORMATS_BY_NAME

PARTS = 4
"""Of a super-block: two blocks each, or halves of four."""


@device
def twice_two(part):
    """Parts of two blocks."""
    return 4 * part


@device
def of_two_quarters(part):
    """Parts of one half of four blocks: the first halves, then the second ones."""
    return 8 * (part >> 1) + (part & 1)


def _define_leave_four(byte: Reader, leave: Reader) -> Reader:
    """Four groups' numbers, a byte of every word each, times their factor."""

    def leave_four(room, group, words, factor):
        leave(room, group, mul(byte(words, 0), factor))
        leave(room, group + 1, mul(byte(words, 1), factor))
        leave(room, group + 2, mul(byte(words, 2), factor))
        leave(room, group + 3, mul(byte(words, 3), factor))

    return device(leave_four)


leave_signed = _define_leave_four(signed_byte, leave_scale)
leave_scales = _define_leave_four(unsigned_byte, leave_scale)
leave_minimums = _define_leave_four(unsigned_byte, leave_minimum)


def _define_keep_words(first: int) -> Reader:
    """Leaves 16 bytes of every row in ``room`` for later parts, as vectors from ``first`` on."""

    def keep_words(base, steps, room):
        words = load_words(base, steps)
        store(in_room(room, SPARE_AT + first), words[0])
        store(in_room(room, SPARE_AT + first + 1), words[1])
        store(in_room(room, SPARE_AT + first + 2), words[2])
        store(in_room(room, SPARE_AT + first + 3), words[3])

    return device(keep_words)


keep_first_words, keep_second_words = _define_keep_words(0), _define_keep_words(4)


@device
def kept_words(room, first, shift):
    """Four vectors of ``keep_words``, shifted right."""
    like = f32_zeros()
    return (
        shift_all(load_bytes(in_room(room, SPARE_AT + first), like), shift),
        shift_all(load_bytes(in_room(room, SPARE_AT + first + 1), like), shift),
        shift_all(load_bytes(in_room(room, SPARE_AT + first + 2), like), shift),
        shift_all(load_bytes(in_room(room, SPARE_AT + first + 3), like), shift),
    )


# Q2_K

first_pairs, second_pairs = define_bits(0, 3), define_bits(2, 3)
third_pairs, fourth_pairs = define_bits(4, 3), define_bits(6, 3)


@device
def bit_pairs(base, steps, part):
    """Two bits of the weights of four half blocks."""
    words = load_words(base + 16 * part, steps)
    return first_pairs(words), second_pairs(words), third_pairs(words), fourth_pairs(words)


@device
def q2_k_scales(base, steps, num_blocks, room):
    words = load_words(base, steps)
    factors = words_at(base + 80, steps)
    scale, minimum = half_of_words(factors, 0), half_of_words(factors, 1)
    minimum = mul(minimum, splat_f32(np.float32(-1.0), minimum))
    for group in range(0, 16, 4):
        low, high = low_nibbles(words), high_nibbles(words)
        leave_scales(room, group, low[0], scale)
        leave_minimums(room, group, high[0], minimum)
        words = words[1], words[2], words[3], words[0]


@device
def q2_k_quants(base, steps, part, room):
    return bit_pairs(base + 16, steps, part)


# Q3_K

third_bits_0, third_bits_1 = define_bits(-2, 4), define_bits(-1, 4)
third_bits_2, third_bits_3 = define_bits(0, 4), define_bits(1, 4)


@device
def centred(low, high):
    """Unsigned bytes of which these are the bits, less 128."""
    return flip_sign_bits(merge(low, high))


@device
def q3_k_scales(base, steps, num_blocks, room):
    keep_first_words(base, steps, room)
    keep_second_words(base + 16, steps, room)
    # Four bytes before the scales, so that 16 bytes end where the super-block does but for d.
    _, first, second, high = load_words(base + 92, steps)
    scale = mul(halves_at(base + 108, steps), splat_f32(np.float32(0.25), f32_zeros()))
    # Shifted up, six bits of which 32 is taken are a signed byte.
    leave_signed(room, 0, centred(bits_at(first, -2, 60), bits_at(high, -6, 192)), scale)
    leave_signed(room, 4, centred(bits_at(second, -2, 60), bits_at(high, -4, 192)), scale)
    leave_signed(room, 8, centred(bits_at(first, 2, 60), bits_at(high, -2, 192)), scale)
    leave_signed(room, 12, centred(bits_at(second, 2, 60), bits_at(high, 0, 192)), scale)


@device
def q3_k_quants(base, steps, part, room):
    first, second, third, fourth = bit_pairs(base + 32, steps, part)
    high = kept_words(room, 4 * (part & 1), 4 * (part >> 1))
    return (
        merge_words(first, third_bits_0(high)), merge_words(second, third_bits_1(high)),
        merge_words(third, third_bits_2(high)), merge_words(fourth, third_bits_3(high)),
    )  # fmt: skip


# Q4_K


@device
def q4_k_scales(base, steps, num_blocks, room):
    factors, first, second, third = load_words(base, steps)
    scale, minimum = half_of_words(factors, 0), half_of_words(factors, 1)
    minimum = mul(minimum, splat_f32(np.float32(-1.0), minimum))
    leave_scales(room, 0, bits_at(first, 0, 63), scale)
    leave_scales(room, 4, merge(bits_at(third, 0, 15), bits_at(first, 2, 48)), scale)
    leave_minimums(room, 0, bits_at(second, 0, 63), minimum)
    leave_minimums(room, 4, merge(bits_at(third, 4, 15), bits_at(second, 2, 48)), minimum)


@device
def nibbles_of_two(base, steps, part):
    """The halves of two blocks."""
    first = load_words(base + 32 * part, steps)
    second = load_words(base + 32 * part + 16, steps)
    return low_nibbles(first), low_nibbles(second), high_nibbles(first), high_nibbles(second)


@device
def q4_k_quants(base, steps, part, room):
    return nibbles_of_two(base + 16, steps, part)


# Q5_K

fifth_bits_0, fifth_bits_1 = define_bits(-4, 16), define_bits(-3, 16)


@device
def q5_k_scales(base, steps, num_blocks, room):
    q4_k_scales(base, steps, num_blocks, room)
    keep_first_words(base + 16, steps, room)
    keep_second_words(base + 32, steps, room)


@device
def q5_k_quants(base, steps, part, room):
    low, later_low, high, later_high = nibbles_of_two(base + 48, steps, part)
    bits, later_bits = kept_words(room, 0, 2 * part), kept_words(room, 4, 2 * part)
    return (
        merge_words(low, fifth_bits_0(bits)), merge_words(later_low, fifth_bits_0(later_bits)),
        merge_words(high, fifth_bits_1(bits)), merge_words(later_high, fifth_bits_1(later_bits)),
    )  # fmt: skip


# Q6_K

high_pairs_0, high_pairs_1 = define_bits(-4, 48), define_bits(-2, 48)
high_pairs_2, high_pairs_3 = define_bits(0, 48), define_bits(2, 48)


@device
def q6_k_scales(base, steps, num_blocks, room):
    scale = halves_at(base + 208, steps)
    first, second, third, fourth = load_words(base + 192, steps)
    leave_signed(room, 0, first, scale)
    leave_signed(room, 4, second, scale)
    leave_signed(room, 8, third, scale)
    leave_signed(room, 12, fourth, scale)


@device
def q6_k_quants(base, steps, part, room):
    low = base + 64 * (part >> 1) + 16 * (part & 1)
    first, second = load_words(low, steps), load_words(low + 32, steps)
    high = load_words(base + 128 + 16 * part, steps)
    return (
        merge_words(low_nibbles(first), high_pairs_0(high)),
        merge_words(low_nibbles(second), high_pairs_1(high)),
        merge_words(high_nibbles(first), high_pairs_2(high)),
        merge_words(high_nibbles(second), high_pairs_3(high)),
    )


def _in_blocks(name, scales, quants):
    """Scale and minimum for 32 weights."""
    return PanelCode(FORMATS_BY_NAME[name], PARTS, scales, quants, twice_two, 1)


def _in_halves(name, scales, quants):
    """Scale, and perhaps minimum, for 16 weights."""
    return PanelCode(FORMATS_BY_NAME[name], PARTS, scales, quants, of_two_quarters, 2)


K_QUANT_PANELS: Mapping[str, PanelCode] = MappingProxyType(
    {
        "Q2_K": _in_halves("Q2_K", q2_k_scales, q2_k_quants),
        "Q3_K": _in_halves("Q3_K", q3_k_scales, q3_k_quants),
        "Q4_K": _in_blocks("Q4_K", q4_k_scales, q4_k_quants),
        "Q5_K": _in_blocks("Q5_K", q5_k_scales, q5_k_quants),
        "Q6_K": _in_halves("Q6_K", q6_k_scales, q6_k_quants),
    }
)
"""Per format name, how its blocks are read."""
