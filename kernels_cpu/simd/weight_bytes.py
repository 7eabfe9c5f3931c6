"""Weights as bytes: the instruction that multiplies four at once, and how eight bits fit it.

Instructions differ in which operand may be signed and in the width of their sums. Weights of up to
seven bits are unsigned on every tier. Weights of eight bits are signed; ``as_weights`` makes them
``weight_bias`` larger on tiers that need unsigned ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from edgellama.kernels_cpu.layouts import START_UNIT
from edgellama.kernels_cpu.machine.cpu import Dot4, Tier
from edgellama.kernels_cpu.simd.vectors import (
    F32,
    Vector,
    call_llvm,
    constant,
    llvm_vector,
    shuffle,
    tier_of,
)
from edgellama.kernels_cpu.simd.whole_registers import (
    ARM_BYTES,
    by_registers,
    move_signs,
    multiply_bytes,
    multiply_words,
    shuffle_in_pieces,
)

BIASED = ("plain", "unsigned")
"""The kinds of dot product that take weights of eight bits as unsigned bytes, 128 larger."""
BIAS = 128


def _dot4_plain(builder: Any, accumulator: Any, unsigned: Any, signed: Any, tier: Tier) -> Any:
    lanes = accumulator.type.count
    wide = llvm_vector("i32", 4 * lanes)
    products = builder.mul(builder.zext(unsigned, wide), builder.sext(signed, wide))
    for j in range(4):
        accumulator = builder.add(
            accumulator, shuffle(builder, products, products, range(j, 4 * lanes, 4))
        )
    return accumulator


def _dot4_unsigned(builder: Any, accumulator: Any, unsigned: Any, signed: Any, tier: Tier) -> Any:
    name = f"llvm.x86.avx512.vpdpbusd.{32 * accumulator.type.count}"
    # LLVM 22 takes bytes but upgrades words, which all earlier versions take.
    words = [builder.bitcast(v, accumulator.type) for v in (unsigned, signed)]
    return call_llvm(builder, name, accumulator.type, [accumulator, *words])


def _dot4_pairs(builder: Any, accumulator: Any, unsigned: Any, signed: Any, tier: Tier) -> Any:
    pairs = multiply_bytes(builder, unsigned, signed, tier)
    return builder.add(accumulator, add_pairs(builder, pairs, tier))


def add_pairs(builder: Any, pairs: Any, tier: Tier) -> Any:
    """Neighbouring 16-bit integers added, in 32 bits."""
    return multiply_words(builder, pairs, constant("i16", [1] * pairs.type.count), tier)


def _dot4_signs_moved(builder: Any, accumulator: Any, first: Any, second: Any, tier: Tier) -> Any:
    """Signed times signed: the first's signs go to the second, magnitudes up to 128 fit pairs."""
    moved = move_signs(builder, second, first, tier)
    return _dot4_pairs(builder, accumulator, _magnitudes(builder, first), moved, tier)


def _magnitudes(builder: Any, numbers: Any) -> Any:
    keep_minimum = ir.Constant(ir.IntType(1), 0)
    name = f"llvm.abs.v{numbers.type.count}i8"
    return call_llvm(builder, name, numbers.type, [numbers, keep_minimum])


def _dot4_signed(builder: Any, accumulator: Any, first: Any, second: Any, tier: Tier) -> Any:
    name = "llvm.aarch64.neon.sdot.v4i32.v16i8"

    def in_one_register(*vectors: Any) -> Any:
        return call_llvm(builder, name, vectors[0].type, list(vectors))

    return by_registers(builder, [accumulator, first, second], ARM_BYTES, in_one_register)


def _dot4_signed_pairs(builder: Any, accumulator: Any, first: Any, second: Any, tier: Tier) -> Any:
    """Two products fit 16 bits, also 128 times 127: each half of 16 bytes, then both in pairs."""
    halves, words = llvm_vector("i16", 8), llvm_vector("i32", 4)

    def in_one_register(sums: Any, *operands: Any) -> Any:
        products = [
            call_llvm(
                builder, "llvm.aarch64.neon.smull.v8i16", halves,
                [shuffle(builder, v, v, range(at, at + 8)) for v in operands],
            )
            for at in (0, 8)
        ]  # fmt: skip
        pairs = call_llvm(builder, "llvm.aarch64.neon.addp.v8i16", halves, products)
        added = call_llvm(builder, "llvm.aarch64.neon.saddlp.v4i32.v8i16", words, [pairs])
        return builder.add(sums, added)

    return by_registers(builder, [accumulator, first, second], ARM_BYTES, in_one_register)


DOT4: Mapping[Dot4, tuple[Any, Any]] = MappingProxyType(
    {
        "plain": (_dot4_plain, _dot4_plain),
        "unsigned": (_dot4_unsigned, _dot4_unsigned),
        "pairs": (_dot4_pairs, _dot4_signs_moved),
        "signed": (_dot4_signed, _dot4_signed),
        "signed_pairs": (_dot4_signed_pairs, _dot4_signed_pairs),
    }
)
"""Per kind of tier: for weights of up to seven bits, and for weights that take all eight."""


def dot4_into(
    builder: Any, accumulator: Any, weights: Any, x: Any, tier: Tier, *, is_wide: bool = False
) -> Any:
    """accumulator[i] += sum over j of weights[4i + j] * x[4i + j], exactly.

    ``weights`` are unsigned bytes up to 127, or, where ``is_wide``, what ``as_weights`` gives;
    ``x`` are signed bytes from -127 to 127.
    """
    return DOT4[tier.dot4][is_wide](builder, accumulator, weights, x, tier)


def _define_dot4(is_wide: bool) -> Callable[..., Any]:
    @intrinsic
    def dot4(typingctx, accumulator, weights, x):
        tier = tier_of(typingctx)
        return accumulator(accumulator, weights, x), lambda ctx, b, sig, args: dot4_into(
            b, *args, tier, is_wide=is_wide
        )

    return dot4


dot4 = _define_dot4(False)
"""Four products of weights of up to seven bits added to every lane."""


def define_dot8(*, is_wide: bool, is_negatable: bool, centre: int) -> Callable[..., Any]:
    """An intrinsic: four products of the first weights and four of the second in every lane.

    ``centre`` is taken off all weights, or what ``as_weights`` added if that is not 0, by what
    ``starts`` has for START_UNIT; not where sums start at zero. Two products of the first and two
    of the second fit 16 bits, where weights have up to seven. Wide weights that are all
    ``negatable``, none -128, take the signs of x rather than give theirs, where signs are moved.
    """

    @intrinsic
    def dot8(typingctx, first, second, first_x, second_x, first_size, second_size, starts):
        tier = tier_of(typingctx)
        taken_off = bias_of(tier) if is_wide and centre else centre
        if sums_start_at_zero(tier):
            taken_off = 0

        def codegen(ctx, b, sig, args):
            factor = constant("i32", [taken_off // START_UNIT] * starts.lanes)
            sums = b.mul(args[6], factor) if taken_off else constant("i32", [0] * starts.lanes)
            if is_negatable and _moves_signs(tier):
                for weights, x, sizes in zip(args[:2], args[2:4], args[4:6], strict=True):
                    sums = _dot4_pairs(b, sums, sizes, move_signs(b, weights, x, tier), tier)
                return sums
            if tier.dot4 != "pairs" or is_wide:
                sums = dot4_into(b, sums, args[0], args[2], tier, is_wide=is_wide)
                return dot4_into(b, sums, args[1], args[3], tier, is_wide=is_wide)
            products = [multiply_bytes(b, args[i], args[i + 2], tier) for i in range(2)]
            return add_pairs(b, b.add(*products), tier)

        vectors = first, second, first_x, second_x, first_size, second_size
        return starts(*vectors, starts), codegen

    return dot8


def sums_start_at_zero(tier: Tier) -> bool:
    """Whether no instruction adds products of bytes to a sum."""
    return tier.dot4 == "pairs"


def _moves_signs(tier: Tier) -> bool:
    """Whether wide weights are signed and multiplied as unsigned ones are."""
    return tier.dot4 == "pairs"


@intrinsic
def moves_signs(typingctx):
    """Whether the tier has use for the magnitudes of activations."""
    moves = _moves_signs(tier_of(typingctx))
    return types.boolean(), lambda ctx, b, sig, args: ir.Constant(ir.IntType(1), int(moves))


@intrinsic
def without_signs(typingctx, v):
    """Magnitudes of signed bytes."""
    return v(v), lambda ctx, b, sig, args: _magnitudes(b, args[0])


def _sign_bit(tier: Tier) -> int:
    """What to flip in a signed byte to make it a weight: flipping the sign bit adds 128."""
    return -bias_of(tier)


def bias_of(tier: Tier) -> int:
    """How much larger ``as_weights`` makes bytes on this tier: 128 or nothing."""
    return BIAS if tier.dot4 in BIASED else 0


@intrinsic
def as_weights(typingctx, v):
    """Signed bytes as the dot product of wide weights takes them: ``weight_bias`` larger."""
    tier = tier_of(typingctx)

    def codegen(ctx, b, sig, args):
        return b.xor(args[0], constant("i8", [_sign_bit(tier)] * v.lanes))

    return v(v), codegen


@intrinsic
def weight_bias(typingctx):
    """``bias_of`` the tier that is compiled for."""
    bias = bias_of(tier_of(typingctx))
    return types.float32(), lambda ctx, b, sig, args: ir.Constant(F32, float(bias))


def _define_weights_to_f32(is_wide: bool) -> Callable[..., Any]:
    @intrinsic
    def weights_to_f32(typingctx, v):
        is_signed = is_wide and tier_of(typingctx).dot4 not in BIASED

        def codegen(ctx, b, sig, args):
            floats = llvm_vector("f32", v.lanes)
            return b.sitofp(args[0], floats) if is_signed else b.uitofp(args[0], floats)

        return Vector("f32", v.lanes)(v), codegen

    return weights_to_f32


WEIGHTS_TO_F32 = (_define_weights_to_f32(False), _define_weights_to_f32(True))
"""Every byte as f32: of weights of up to seven bits, and of those that take eight."""


def define_look_up(table: Sequence[int]) -> Callable[..., Any]:
    """A device function from bytes below 16 to a table's signed bytes, as ``as_weights``."""

    @intrinsic
    def look_up(typingctx, v):
        tier = tier_of(typingctx)
        weights = [value ^ _sign_bit(tier) for value in table]

        def codegen(ctx, b, sig, args):
            if not tier.has_byte_shuffle:
                return _select_bytes(b, args[0], weights)
            pieces = constant("i8", weights * (v.lanes // 16))
            return shuffle_in_pieces(b, pieces, args[0], tier)

        return v(v), codegen

    return look_up


def _select_bytes(builder: Any, indices: Any, table: Sequence[int]) -> Any:
    """Table look-up as a tree of choices, one level for every bit of the indices."""
    lanes = indices.type.count
    values = [constant("i8", [value] * lanes) for value in table]
    bit = 1
    while len(values) > 1:
        kept = builder.and_(indices, constant("i8", [bit] * lanes))
        is_set = builder.icmp_unsigned("!=", kept, constant("i8", [0] * lanes))
        values = [
            builder.select(is_set, values[i + 1], values[i]) for i in range(0, len(values), 2)
        ]
        bit *= 2
    return values[0]
