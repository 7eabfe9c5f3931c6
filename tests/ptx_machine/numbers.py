"""Arithmetic of PTX on arrays of NumPy, as the ISA has it, where NumPy's own is not that."""

from __future__ import annotations

import numpy as np

from ptx_machine.faults import Array

SMALLEST_NORMAL = np.float32(2.0**-126)
FORGOTTEN, HALFWAY = np.int64(0x1FFFFFFF), np.int64(0x10000000)
"""Bits of an f64 that an f32 has no place for, and what they are halfway between two f32."""
MOST_S32 = 2.0**31 - 1


def fused_multiply_add(x: Array, y: Array, z: Array) -> Array:
    """x * y + z of f32, rounded once to nearest even.

    A product of f32 is exact as f64. Where rounding the f64 sum could round a second time, the sum
    is first made odd where it is not exact.
    """
    product = x.astype("f8") * y.astype("f8")
    total = np.asarray(product + z)
    result = total.astype("f4")
    risky = (total.view("i8") & FORGOTTEN) == HALFWAY
    risky |= np.abs(result) <= SMALLEST_NORMAL
    if risky.any():
        rest = total - product
        error = (product - (total - rest)) + (z - rest)
        is_even = (total.view("i8") & 1) == 0
        must_move = risky & is_even & (error != 0) & np.isfinite(total)
        moved = np.where(must_move, np.nextafter(total, np.copysign(np.inf, error)), total)
        result = moved.astype("f4")
    return np.asarray(result)


def larger(x: Array, y: Array) -> Array:
    """max.f32: the number where the other is none; +0 is more than -0."""
    both = (x.view("u4") & y.view("u4")).view("f4")
    return np.where(x == y, both, np.fmax(x, y))


def smaller(x: Array, y: Array) -> Array:
    """min.f32: the number where the other is none; -0 is less than +0."""
    either = (x.view("u4") | y.view("u4")).view("f4")
    return np.where(x == y, either, np.fmin(x, y))


def roughly(exact: Array, x: Array) -> Array:
    """What an approximate instruction may give: the next f32 for every other ``x``."""
    result = np.asarray(exact.astype("f4"))
    is_off = (x.view("u4") & 1 == 1) & np.isfinite(result) & (np.abs(result) > SMALLEST_NORMAL)
    return np.where(is_off, (result.view("u4") + np.uint32(1)).view("f4"), result)


def power_of_two(x: Array) -> Array:
    """ex2.approx.ftz.f32."""
    x = np.where(np.abs(x) < SMALLEST_NORMAL, np.copysign(np.float32(0), x), x)
    result = roughly(np.exp2(x.astype("f8")), x)
    return np.where(result < SMALLEST_NORMAL, np.float32(0), result)


def reciprocal(x: Array) -> Array:
    """rcp.approx.f32."""
    return roughly(1 / x.astype("f8"), x)


def half_bits(x: Array) -> Array:
    """cvt.rn.f16.f32; a number that is none is 0x7fff."""
    return np.where(np.isnan(x), np.uint16(0x7FFF), x.astype("f2").view("u2"))


def bfloat_bits(x: Array) -> Array:
    """cvt.rn.bf16.f32; the same."""
    bits = x.view("u4").astype("u8")
    rounded = (bits + 0x7FFF + (bits >> np.uint64(16) & np.uint64(1))) >> np.uint64(16)
    return np.where(np.isnan(x), np.uint16(0x7FFF), rounded.astype("u2"))


def bfloats(bits: Array) -> Array:
    """f32 of the bits of bfloat16."""
    return (bits.astype("u4") << np.uint32(16)).view("f4")


def pair(high: Array, low: Array) -> Array:
    """Two numbers of 16 bits as one word."""
    return (high.astype("u4") << np.uint32(16)) | low


def toward_zero(x: Array) -> Array:
    """cvt.rzi.s32.f32: what is too large becomes the last, what is no number 0."""
    whole = np.clip(np.trunc(x.astype("f8")), -(2.0**31), MOST_S32)
    return np.where(np.isnan(x), 0, whole).astype("i4")


def quotient(x: Array, y: Array) -> Array:
    """Of integers, toward zero."""
    floor = x // y
    if x.dtype.kind == "u":
        return np.asarray(floor)
    rest = x - floor * y
    return np.asarray(floor + ((rest != 0) & ((x < 0) != (y < 0))))


def remainder(x: Array, y: Array) -> Array:
    """What a quotient leaves; it has the sign of x."""
    return np.asarray(x - quotient(x, y) * y)


def shifted_left(x: Array, by: Array) -> Array:
    """Zeros where all bits leave: the distance is not taken modulo the width."""
    bits = 8 * x.dtype.itemsize
    part = x << np.minimum(by, bits - 1).astype(x.dtype)
    return np.where(by < bits, part, x.dtype.type(0))


def shifted_right(x: Array, by: Array) -> Array:
    """Zeros, or the sign of a signed number, come in; the distance is not taken modulo."""
    bits = 8 * x.dtype.itemsize
    part = x >> np.minimum(by, bits - 1).astype(x.dtype)
    if x.dtype.kind == "i":
        return np.asarray(part)
    return np.where(by < bits, part, x.dtype.type(0))


def bit_field(x: Array, position: Array, length: Array) -> Array:
    """bfe of an unsigned number: zeros from beyond its end."""
    position, length = position & np.uint32(255), length & np.uint32(255)
    below = shifted_left(np.array(1, x.dtype), length) - x.dtype.type(1)
    return shifted_right(x, position) & below


def permuted_bytes(x: Array, y: Array, selector: Array) -> Array:
    """prmt.b32: bytes 0 to 3 are those of x, 4 to 7 those of y; 8 of a choice repeats the sign."""
    both = (y.astype("u8") << np.uint64(32)) | x
    result = np.zeros((), "u4")
    for place in range(4):
        choice = selector >> np.uint32(4 * place) & np.uint32(15)
        byte = both >> (8 * (choice & np.uint32(7))).astype("u8") & np.uint64(255)
        sign = np.where(byte > 127, np.uint64(255), np.uint64(0))
        byte = np.where(choice > 7, sign, byte)
        result = result | (byte.astype("u4") << np.uint32(8 * place))
    return np.asarray(result)
