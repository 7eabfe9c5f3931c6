"""Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 by plain rounding, bit for bit as the ``gguf`` package writes them.

One block of 32 at a time. The choices of rounding, and that the first of equally large numbers
decides the sign, are those of ``gguf.quants`` and of ggml's reference quantizers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from edgellama.kernels_cpu.simd.arithmetic import (
    add,
    magnitude,
    max_lanes,
    maximum,
    min_lanes,
    mul,
    sub,
)
from edgellama.kernels_cpu.simd.device import exact_device
from edgellama.kernels_cpu.simd.halves import write_f16
from edgellama.kernels_cpu.simd.rounding import (
    bits_above_nibble,
    bits_of_equal,
    f32_zeros_32,
    first_bit,
    minimum,
    store_low_bytes,
    store_nibble_pairs,
    truncate,
    with_sign_of,
    write_i32,
)
from edgellama.kernels_cpu.simd.vectors import load_f32, read_f32, splat_f32
from edgellama.quant.formats import FORMATS_BY_NAME

ZERO, ONE = np.float32(0.0), np.float32(1.0)
NOT_A_NUMBER = np.float32(np.nan)
"""In place of an infinite reciprocal it makes every quant 0, as infinity does in ``gguf``."""
ALMOST_HALF = np.float32(np.nextafter(np.float32(0.5), ZERO))
"""Added before digits are cut off, it rounds halves away from zero and nothing else wrongly."""


@exact_device
def reciprocal(d, beyond):
    """1 / d, 0 for a block whose scale is 0, and ``beyond`` where the quotient is infinite."""
    inverse = ZERO
    if d != ZERO:
        inverse = ONE / d
    if inverse - inverse != ZERO:
        inverse = beyond
    return inverse


@exact_device
def whole_part(x, top):
    """The integer part of x within 0 to ``top``; 0 where x is not a number."""
    zero = splat_f32(ZERO, x)
    return truncate(minimum(maximum(x, zero), splat_f32(top, x)))


@exact_device
def largest_number(x, values):
    """The number of greatest magnitude among 32, the first of several, with its sign."""
    sizes = magnitude(values)
    largest = splat_f32(max_lanes(sizes), values)
    return read_f32(x + 4 * (first_bit(bits_of_equal(sizes, largest)) & 31))


def symmetric_quants(top):
    """The scale of 32 weights, and their quants 0 to ``top``, 0 standing for -(top + 1) / 2."""
    divisor, offset = np.float32(-(top + 1) / 2), np.float32((top + 2) / 2)
    highest = np.float32(top)

    def quants(x):
        values = load_f32(x, f32_zeros_32())
        d = largest_number(x, values) / divisor
        scaled = mul(values, splat_f32(reciprocal(d, NOT_A_NUMBER), values))
        return d, whole_part(add(scaled, splat_f32(offset, values)), highest)

    return exact_device(quants)


def affine_quants(top):
    """The scale and minimum of 32 weights, and their quants 0 to ``top``."""
    highest = np.float32(top)

    def quants(x):
        values = load_f32(x, f32_zeros_32())
        smallest = min_lanes(values)
        d = (max_lanes(values) - smallest) / highest
        above = sub(values, splat_f32(smallest, values))
        scaled = mul(above, splat_f32(reciprocal(d, NOT_A_NUMBER), values))
        half = splat_f32(np.float32(0.5), values)
        return d, smallest, whole_part(add(scaled, half), highest)

    return exact_device(quants)


def encode_symmetric(top, extra_bytes):
    """Half d; for five bits 32 high bits; 16 bytes of nibbles."""
    quants_of = symmetric_quants(top)

    def encode(x, block):
        d, quants = quants_of(x)
        write_f16(block, d)
        if extra_bytes:
            write_i32(block + 2, bits_above_nibble(quants))
        store_nibble_pairs(block + 2 + extra_bytes, quants)

    return exact_device(encode)


def encode_affine(top, extra_bytes):
    """Half d, half m; for five bits 32 high bits; 16 bytes of nibbles."""
    quants_of = affine_quants(top)

    def encode(x, block):
        d, smallest, quants = quants_of(x)
        write_f16(block, d)
        write_f16(block + 2, smallest)
        if extra_bytes:
            write_i32(block + 4, bits_above_nibble(quants))
        store_nibble_pairs(block + 4 + extra_bytes, quants)

    return exact_device(encode)


@exact_device
def encode_q8_0(x, block):
    """Half d; 32 signed bytes, rounded half away from zero."""
    values = load_f32(x, f32_zeros_32())
    d = max_lanes(magnitude(values)) / np.float32(127.0)
    scaled = mul(values, splat_f32(reciprocal(d, ZERO), values))
    rounded = add(scaled, with_sign_of(splat_f32(ALMOST_HALF, values), scaled))
    limit = splat_f32(np.float32(127.5), values)
    limited = minimum(maximum(rounded, sub(splat_f32(ZERO, values), limit)), limit)
    write_f16(block, d)
    store_low_bytes(block + 2, truncate(limited))


ENCODERS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "Q4_0": encode_symmetric(15, 0),
        "Q4_1": encode_affine(15, 0),
        "Q5_0": encode_symmetric(31, 4),
        "Q5_1": encode_affine(31, 4),
        "Q8_0": encode_q8_0,
    }
)
"""Per format: how 32 f32 become a block."""


def round_blocks(name):
    """Blocks of 32 one after the other, as many as ``num_blocks``."""
    encode, block_bytes = ENCODERS[name], FORMATS_BY_NAME[name].block_bytes

    def kernel(x, num_blocks, blocks, thread, job):
        for i in range(num_blocks):
            encode(x + 128 * i, blocks + block_bytes * i)

    return kernel
