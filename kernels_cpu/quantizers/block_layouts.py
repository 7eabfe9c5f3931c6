"""Where the bits of quants and scales go after a search: the layouts of ggml.

A packer writes one word of many blocks at a time. It gets the quants and integers as i32 vectors
with one block in each lane. The part of a block before or behind these words is a half.
"""

from __future__ import annotations

from edgellama.kernels_cpu.quantizers.lane_tiles import four_bytes, vector_bytes
from edgellama.kernels_cpu.quantizers.super_blocks import GROUP_VECTORS
from edgellama.kernels_cpu.simd import operators  # noqa: F401
from edgellama.kernels_cpu.simd.device import exact_device
from edgellama.kernels_cpu.simd.rounding import half_bits, load_i32
from edgellama.kernels_cpu.simd.vectors import f32_zeros, store

LOW_NIBBLES, LOW_PAIRS, LOW_BITS = 0x0F0F0F0F, 0x03030303, 0x01010101


@exact_device
def put_word(words, number, value):
    """Store the word of that number of all blocks."""
    store(words + number * vector_bytes(), value)


@exact_device
def put_six_bit_pairs(integers, words):
    """Eight scales and eight minimums of six bits in three words, for Q4_K and Q5_K."""
    low, high = four_bytes(integers, 0), four_bytes(integers, 4)
    min_low, min_high = four_bytes(integers, GROUP_VECTORS), four_bytes(integers, GROUP_VECTORS + 4)
    put_word(words, 0, low | (high >> 4 & LOW_PAIRS) << 6)
    put_word(words, 1, min_low | (min_high >> 4 & LOW_PAIRS) << 6)
    put_word(words, 2, (high & LOW_NIBBLES) | (min_high & LOW_NIBBLES) << 4)


@exact_device
def put_nibbles(quants, words):
    """Low nibbles: those of 32 weights below those of the next 32, in 32 words."""
    for word in range(32):
        element = word // 8 * 64 + word % 8 * 4
        low, high = four_bytes(quants, element), four_bytes(quants, element + 32)
        put_word(words, word, (low & LOW_NIBBLES) | (high & LOW_NIBBLES) << 4)


@exact_device
def put_pairs(quants, words):
    """Low bit pairs: those of four times 32 weights above one another, in 16 words."""
    for word in range(16):
        element = word // 8 * 128 + word % 8 * 4
        pairs = four_bytes(quants, element) & LOW_PAIRS
        for part in range(1, 4):
            pairs = pairs | (four_bytes(quants, element + 32 * part) & LOW_PAIRS) << 2 * part
        put_word(words, word, pairs)


def put_single_bits(bit):
    """One bit of each quant: those of eight times 32 weights above one another, in 8 words."""

    def put_bits(quants, words):
        for word in range(8):
            bits = four_bytes(quants, 4 * word) >> bit & LOW_BITS
            for part in range(1, 8):
                more = four_bytes(quants, 4 * word + 32 * part) >> bit & LOW_BITS
                bits = bits | more << part
            put_word(words, word, bits)

    return exact_device(put_bits)


put_third_bits, put_fifth_bits = put_single_bits(2), put_single_bits(4)


@exact_device
def pack_q2_k(quants, integers, d, dmin, words):
    """16 bytes of scale and minimum nibbles; 64 bytes of pairs; d, dmin."""
    for word in range(4):
        scales = four_bytes(integers, 4 * word)
        put_word(words, word, scales | four_bytes(integers, GROUP_VECTORS + 4 * word) << 4)
    put_pairs(quants, words + 4 * vector_bytes())
    put_word(words, 20, half_bits(d) | half_bits(dmin) << 16)


@exact_device
def pack_q4_k(quants, integers, d, dmin, words):
    """d, dmin; 12 bytes of scales; 128 bytes of nibbles."""
    put_word(words, 0, half_bits(d) | half_bits(dmin) << 16)
    put_six_bit_pairs(integers, words + vector_bytes())
    put_nibbles(quants, words + 4 * vector_bytes())


@exact_device
def pack_q5_k(quants, integers, d, dmin, words):
    """d, dmin; 12 bytes of scales; 32 bytes of fifth bits; 128 bytes of nibbles."""
    put_word(words, 0, half_bits(d) | half_bits(dmin) << 16)
    put_six_bit_pairs(integers, words + vector_bytes())
    put_fifth_bits(quants, words + 4 * vector_bytes())
    put_nibbles(quants, words + 12 * vector_bytes())


@exact_device
def pack_q3_k(quants, integers, d, words):
    """32 bytes of third bits; 64 bytes of pairs; 12 bytes of six-bit scales; d."""
    put_third_bits(quants, words)
    put_pairs(quants, words + 8 * vector_bytes())
    first, second = four_bytes(integers, 0), four_bytes(integers, 4)
    third, fourth = four_bytes(integers, 8), four_bytes(integers, 12)
    put_word(words, 24, (first & LOW_NIBBLES) | (third & LOW_NIBBLES) << 4)
    put_word(words, 25, (second & LOW_NIBBLES) | (fourth & LOW_NIBBLES) << 4)
    high = (first >> 4 & LOW_PAIRS) | (second >> 4 & LOW_PAIRS) << 2
    put_word(words, 26, high | (third >> 4 & LOW_PAIRS) << 4 | (fourth >> 4 & LOW_PAIRS) << 6)
    put_word(words, 27, half_bits(d))


@exact_device
def pack_q6_k(quants, integers, d, words):
    """Low nibbles of 128 weights in 64 bytes, twice; their upper pairs; 16 scales; d."""
    for word in range(16):
        element = word // 8 * 128 + word % 8 * 4
        first, second = four_bytes(quants, element), four_bytes(quants, element + 32)
        third, fourth = four_bytes(quants, element + 64), four_bytes(quants, element + 96)
        low = word + word // 8 * 8
        put_word(words, low, (first & LOW_NIBBLES) | (third & LOW_NIBBLES) << 4)
        put_word(words, low + 8, (second & LOW_NIBBLES) | (fourth & LOW_NIBBLES) << 4)
        pairs = (first >> 4 & LOW_PAIRS) | (second >> 4 & LOW_PAIRS) << 2
        pairs = pairs | (third >> 4 & LOW_PAIRS) << 4 | (fourth >> 4 & LOW_PAIRS) << 6
        put_word(words, 32 + word, pairs)
    for word in range(4):
        put_word(words, 48 + word, four_bytes(integers, 4 * word))
    put_word(words, 52, half_bits(d))


@exact_device
def put_block_nibbles(quants, words):
    """16 weights below the next 16, in four words."""
    for word in range(4):
        low, high = four_bytes(quants, 4 * word), four_bytes(quants, 4 * word + 16)
        put_word(words, word, (low & LOW_NIBBLES) | (high & LOW_NIBBLES) << 4)


@exact_device
def pack_iq4_xs(quants, integers, d, words):
    """d; upper pairs of eight scales; their low nibbles; 128 bytes of numbers in the codebook."""
    low = high = load_i32(integers, f32_zeros()) & 0
    for group in range(8):
        integer = load_i32(integers + group * vector_bytes(), f32_zeros())
        low = low | (integer & 15) << 4 * group
        high = high | integer >> 4 << 2 * group
    put_word(words, 0, half_bits(d) | high << 16)
    put_word(words, 1, low)
    for group in range(8):
        put_block_nibbles(
            quants + 32 * group * vector_bytes(), words + (2 + 4 * group) * vector_bytes()
        )
