"""LLVM vectors inside Numba: types, memory access, arithmetic and the four-byte dot product.

Kernels are plain Python over these vectors. The width comes from the tier that is being
compiled for (``f32_zeros``) or from a vector that the caller already has (``like``). Addresses
are ``int64``. With ``simd_tiles`` and ``simd_atomics`` this is the only code that builds LLVM IR.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from edgellama.kernels_cpu.cpu import Tier

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
F16, F32 = ir.HalfType(), ir.FloatType()
SCALARS = {"i8": I8, "i16": I16, "i32": I32, "f16": F16, "f32": F32}
PIECE_BYTES = 16
"""Block formats are read in pieces of 16 bytes: half a block of 32, four lanes."""


class Vector(types.Type):
    """``lanes`` numbers of one kind (``i8``, ``i32`` or ``f32``) in one register or several."""

    def __init__(self, kind: str, lanes: int) -> None:
        self.kind, self.lanes = kind, lanes
        super().__init__(name=f"Vector({kind},{lanes})")


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    """Stores a Vector as LLVM's own vector type."""

    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, llvm_vector(vector.kind, vector.lanes))


def llvm_vector(kind: str, lanes: int) -> ir.VectorType:
    """The LLVM type of ``lanes`` numbers of ``kind``."""
    return ir.VectorType(SCALARS[kind], lanes)


def tier_of(typing_context: Any) -> Tier:
    """The tier that the running compilation is for, as ``jit`` has set it."""
    tier: Tier = typing_context.edgellama_tier
    return tier


def constant(kind: str, values: Iterable[float]) -> ir.Constant:
    """A vector constant."""
    numbers = list(values)
    return ir.Constant(llvm_vector(kind, len(numbers)), numbers)


def pointer(builder: Any, address: Any, llvm_type: Any) -> Any:
    """An address as a typed pointer."""
    return builder.inttoptr(address, llvm_type.as_pointer())


def load_at(builder: Any, address: Any, llvm_type: Any, offset: int = 0) -> Any:
    """An unaligned load from ``address + offset``."""
    if offset:
        address = builder.add(address, ir.Constant(I64, offset))
    return builder.load(pointer(builder, address, llvm_type), align=1)


def shuffle(builder: Any, first: Any, second: Any, lanes: Iterable[int]) -> Any:
    """Lanes of the two vectors laid end to end, in the given order."""
    return builder.shuffle_vector(first, second, constant("i32", lanes))


def splat(builder: Any, value: Any, lanes: int) -> Any:
    """One scalar in every lane."""
    vector = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    vector = builder.insert_element(vector, value, ir.Constant(I32, 0))
    return shuffle(builder, vector, vector, [0] * lanes)


def call_llvm(builder: Any, name: str, result: Any, args: list[Any]) -> Any:
    """A call of an LLVM intrinsic."""
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(result, [a.type for a in args]), name
    )
    return builder.call(function, args)


def multiply_add(builder: Any, x: Any, y: Any, z: Any, tier: Tier) -> Any:
    """x * y + z of f32 vectors, rounded once where the tier has the instruction."""
    if tier.has_fma:
        return call_llvm(builder, f"llvm.fma.v{x.type.count}f32", x.type, [x, y, z])
    return builder.fadd(builder.fmul(x, y), z)


# Making and moving vectors


@intrinsic
def f32_zeros(typingctx):
    """A full vector of zeros."""
    vector = Vector("f32", tier_of(typingctx).lanes)
    return vector(), lambda ctx, b, sig, args: constant("f32", [0.0] * vector.lanes)


@intrinsic
def f32_zeros_4(typingctx):
    """Four zeros: the width at which one block is handled where a full vector does not fit."""
    return Vector("f32", 4)(), lambda ctx, b, sig, args: constant("f32", [0.0] * 4)


@intrinsic
def lane_count(typingctx):
    """Lanes of a full vector, as a compile-time constant."""
    lanes = tier_of(typingctx).lanes
    return types.int64(), lambda ctx, b, sig, args: ir.Constant(I64, lanes)


@intrinsic
def width_of(typingctx, like):
    """Lanes of ``like``, as a compile-time constant."""
    return types.int64(like), lambda ctx, b, sig, args: ir.Constant(I64, like.lanes)


@intrinsic
def i32_zeros_like(typingctx, like):
    """Integer zeros in as many lanes as ``like``."""
    return Vector("i32", like.lanes)(like), lambda ctx, b, sig, args: constant(
        "i32", [0] * like.lanes
    )


def _define_load(kind: str, lanes_per_lane: int) -> Callable[..., Any]:
    @intrinsic
    def load(typingctx, address, like):
        vector = Vector(kind, like.lanes * lanes_per_lane)

        def codegen(ctx, b, sig, args):
            return load_at(b, args[0], llvm_vector(kind, vector.lanes))

        return vector(types.int64, like), codegen

    return load


load_f32, load_i32, load_bytes = (
    _define_load("f32", 1),
    _define_load("i32", 1),
    _define_load("i8", 4),
)


@intrinsic
def load_pieces(typingctx, address, stride, like):
    """16 bytes from each of ``address``, ``address + stride``, …: as many as fill ``like``."""
    num_pieces = like.lanes // 4
    vector = Vector("i8", num_pieces * PIECE_BYTES)

    def codegen(ctx, b, sig, args):
        address = args[0]
        pieces = [load_at(b, address, llvm_vector("i8", PIECE_BYTES))]
        for _ in range(num_pieces - 1):
            address = b.add(address, args[1])
            pieces.append(load_at(b, address, llvm_vector("i8", PIECE_BYTES)))
        return concatenate(b, pieces)

    return vector(types.int64, types.int64, like), codegen


@intrinsic(prefer_literal=True)
def load_chosen_pieces(typingctx, address, first, second, third, fourth, like):
    """16-byte pieces of the memory at ``address``, by literal number: as many as fill ``like``."""
    numbers = [getattr(n, "literal_value", None) for n in (first, second, third, fourth)]
    if None in numbers:
        return None
    chosen = numbers[: like.lanes // 4]
    span = 1 << max(chosen).bit_length()

    def codegen(ctx, b, sig, args):
        if len(chosen) == span:
            # All of the memory is used by the two halves of a block: one load serves both.
            whole = load_at(b, args[0], llvm_vector("i8", span * PIECE_BYTES))
            return shuffle(b, whole, whole, [16 * n + i for n in chosen for i in range(16)])
        piece = llvm_vector("i8", PIECE_BYTES)
        return concatenate(b, [load_at(b, args[0], piece, PIECE_BYTES * n) for n in chosen])

    vector = Vector("i8", len(chosen) * PIECE_BYTES)
    return vector(types.int64, first, second, third, fourth, like), codegen


def concatenate(builder: Any, vectors: list[Any]) -> Any:
    """Vectors of equal width laid end to end; their number is a power of two."""
    while len(vectors) > 1:
        width = vectors[0].type.count
        vectors = [
            shuffle(builder, vectors[i], vectors[i + 1], range(2 * width))
            for i in range(0, len(vectors), 2)
        ]
    return vectors[0]


@intrinsic
def store(typingctx, address, vector):
    """Unaligned store of a whole vector."""

    def codegen(ctx, b, sig, args):
        b.store(args[1], pointer(b, args[0], args[1].type), align=1)
        return ctx.get_dummy_value()

    return types.void(types.int64, vector), codegen


@intrinsic
def splat_f32(typingctx, value, like):
    """One number in every lane."""

    def codegen(ctx, b, sig, args):
        return splat(b, args[0], like.lanes)

    return Vector("f32", like.lanes)(types.float32, like), codegen


# Half precision


def half_bits_to_f32(builder: Any, bits: Any, tier: Tier) -> Any:
    """A vector of IEEE half bit patterns (i16) as f32, exactly, subnormals and NaN included."""
    lanes = bits.type.count
    if tier.has_f16_conversion:
        return builder.fpext(
            builder.bitcast(bits, llvm_vector("f16", lanes)), llvm_vector("f32", lanes)
        )
    wide = builder.zext(bits, llvm_vector("i32", lanes))

    def each(value: int) -> ir.Constant:
        return constant("i32", [value] * lanes)

    sign = builder.shl(builder.and_(wide, each(0x8000)), each(16))
    magnitude = builder.shl(builder.and_(wide, each(0x7FFF)), each(13))
    # Scaling by 2**112 moves the exponent from half's bias to single's, subnormals included.
    scaled = builder.fmul(
        builder.bitcast(magnitude, llvm_vector("f32", lanes)), constant("f32", [2.0**112] * lanes)
    )
    special = builder.icmp_unsigned(">=", magnitude, each(0x7C00 << 13))
    filled = builder.or_(magnitude, each(0x7F800000))
    value = builder.select(special, filled, builder.bitcast(scaled, llvm_vector("i32", lanes)))
    return builder.bitcast(builder.or_(value, sign), llvm_vector("f32", lanes))


def f32_to_half_bits(builder: Any, values: Any, tier: Tier) -> Any:
    """f32 as IEEE half bit patterns (i16), rounded to nearest even; overflow becomes infinity."""
    lanes = values.type.count
    if tier.has_f16_conversion:
        return builder.bitcast(
            builder.fptrunc(values, llvm_vector("f16", lanes)), llvm_vector("i16", lanes)
        )

    def each(value: int) -> ir.Constant:
        return constant("i32", [value] * lanes)

    bits = builder.bitcast(values, llvm_vector("i32", lanes))
    magnitude = builder.and_(bits, each(0x7FFFFFFF))
    sign = builder.lshr(builder.and_(bits, each(-0x80000000)), each(16))
    odd = builder.and_(builder.lshr(magnitude, each(13)), each(1))
    normal = builder.lshr(
        builder.add(magnitude, builder.add(odd, each(0xFFF - (112 << 23)))), each(13)
    )
    # Adding 0.5 leaves a subnormal half's bits, correctly rounded, at the foot of the mantissa.
    shifted = builder.fadd(
        builder.bitcast(magnitude, llvm_vector("f32", lanes)), constant("f32", [0.5] * lanes)
    )
    subnormal = builder.sub(builder.bitcast(shifted, llvm_vector("i32", lanes)), each(0x3F000000))
    value = builder.select(
        builder.icmp_unsigned("<", magnitude, each(113 << 23)), subnormal, normal
    )
    too_large = builder.icmp_unsigned(">=", magnitude, each(0x477FF000))
    value = builder.select(too_large, each(0x7C00), value)
    not_a_number = builder.icmp_unsigned(">", magnitude, each(0x7F800000))
    value = builder.select(not_a_number, each(0x7E00), value)
    return builder.trunc(builder.or_(value, sign), llvm_vector("i16", lanes))


def float_vector_at(builder: Any, kind: str, address: Any, lanes: int, tier: Tier) -> Any:
    """``lanes`` stored numbers of kind f32, f16 or bf16 as f32."""
    if kind == "f32":
        return load_at(builder, address, llvm_vector("f32", lanes))
    bits = load_at(builder, address, llvm_vector("i16", lanes))
    if kind == "f16":
        return half_bits_to_f32(builder, bits, tier)
    wide = builder.shl(builder.zext(bits, llvm_vector("i32", lanes)), constant("i32", [16] * lanes))
    return builder.bitcast(wide, llvm_vector("f32", lanes))


def _define_float_load(kind: str) -> Callable[..., Any]:
    @intrinsic
    def load(typingctx, address, like):
        tier = tier_of(typingctx)

        def codegen(ctx, b, sig, args):
            return float_vector_at(b, kind, args[0], like.lanes, tier)

        return Vector("f32", like.lanes)(types.int64, like), codegen

    return load


load_f16, load_bf16 = _define_float_load("f16"), _define_float_load("bf16")


@intrinsic
def store_f16(typingctx, address, vector):
    """Store f32 lanes as halves."""
    tier = tier_of(typingctx)

    def codegen(ctx, b, sig, args):
        bits = f32_to_half_bits(b, args[1], tier)
        b.store(bits, pointer(b, args[0], bits.type), align=1)
        return ctx.get_dummy_value()

    return types.void(types.int64, vector), codegen


@intrinsic(prefer_literal=True)
def load_half_scales(typingctx, address, stride, like):
    """One half from each of ``address``, ``address + stride``, …, each as f32 in four lanes."""
    tier, count = tier_of(typingctx), like.lanes // 4
    step = getattr(stride, "literal_value", None)
    if step is None:
        return None
    # One wide load reaches all scales when they lie within it and it stays inside the blocks.
    window = 2 * like.lanes * 2
    one_load = count > 1 and (count - 1) * step + 2 <= window <= count * step and step % 2 == 0

    def codegen(ctx, b, sig, args):
        if one_load:
            halves = load_at(b, args[0], llvm_vector("i16", window // 2))
            order = [i * step // 2 for i in range(count) for _ in range(4)]
        else:
            halves = ir.Constant(llvm_vector("i16", max(count, 2)), ir.Undefined)
            for i in range(count):
                half = load_at(b, args[0], I16, i * step)
                halves = b.insert_element(halves, half, ir.Constant(I32, i))
            order = [i for i in range(count) for _ in range(4)]
        return half_bits_to_f32(b, shuffle(b, halves, halves, order), tier)

    return Vector("f32", like.lanes)(types.int64, stride, like), codegen


# Integers


@intrinsic(prefer_literal=True)
def load_paired_scales(typingctx, address, half, like):
    """Signed bytes in pairs at ``address``: the first or second of each, as f32 in four lanes."""
    count, number = like.lanes // 4, getattr(half, "literal_value", None)
    if number is None:
        return None

    def codegen(ctx, b, sig, args):
        words = llvm_vector("i16", count)
        pairs = load_at(b, args[0], words)
        if number == 0:
            pairs = b.shl(pairs, constant("i16", [8] * count))
        taken = b.sext(b.ashr(pairs, constant("i16", [8] * count)), llvm_vector("i32", count))
        lanes = shuffle(b, taken, taken, [i for i in range(count) for _ in range(4)])
        return b.sitofp(lanes, llvm_vector("f32", like.lanes))

    return Vector("f32", like.lanes)(types.int64, half, like), codegen


@intrinsic
def widen_word(typingctx, word, like):
    """The low bytes of ``word`` (unsigned), each as f32 in four lanes: as many as fill ``like``."""

    def codegen(ctx, b, sig, args):
        taken = b.bitcast(b.trunc(args[0], I32), llvm_vector("i8", 4))
        order = [i for i in range(like.lanes // 4) for _ in range(4)]
        wide = b.zext(shuffle(b, taken, taken, order), llvm_vector("i32", like.lanes))
        return b.sitofp(wide, llvm_vector("f32", like.lanes))

    return Vector("f32", like.lanes)(types.int64, like), codegen


@intrinsic(prefer_literal=True)
def keep_bits(typingctx, v, bits):
    """Every byte and the literal ``bits``."""
    mask = getattr(bits, "literal_value", None)
    if mask is None:
        return None
    return v(v, bits), lambda ctx, b, sig, args: b.and_(args[0], constant("i8", [mask] * v.lanes))


@intrinsic
def low_nibbles(typingctx, v):
    """Lower four bits of every byte."""
    return v(v), lambda ctx, b, sig, args: b.and_(args[0], constant("i8", [15] * v.lanes))


@intrinsic
def high_nibbles(typingctx, v):
    """Upper four bits of every byte."""
    return v(v), lambda ctx, b, sig, args: b.lshr(args[0], constant("i8", [4] * v.lanes))


@intrinsic
def flip_sign_bits(typingctx, v):
    """Signed bytes as unsigned ones, 128 larger."""
    return v(v), lambda ctx, b, sig, args: b.xor(args[0], constant("i8", [-128] * v.lanes))


@intrinsic
def merge(typingctx, x, y):
    """Bits of both."""
    return x(x, y), lambda ctx, b, sig, args: b.or_(*args)


@intrinsic
def rotate_pieces(typingctx, v, first, second, third, fourth):
    """The words of each 16-byte piece rotated left by its own number of bits.

    Bits of neighbouring bytes come in, so the caller keeps those that stayed in their byte.
    """

    def codegen(ctx, b, sig, args):
        words = b.bitcast(args[0], llvm_vector("i32", v.lanes // 4))
        numbers = [splat(b, b.trunc(a, I32), 4) for a in args[1 : 1 + v.lanes // PIECE_BYTES]]
        amounts = b.and_(concatenate(b, numbers), constant("i32", [31] * (v.lanes // 4)))
        name = f"llvm.fshl.v{v.lanes // 4}i32"
        return b.bitcast(call_llvm(b, name, words.type, [words, words, amounts]), args[0].type)

    return v(v, *[types.int64] * 4), codegen


@intrinsic
def byte_at(typingctx, v, index):
    """One unsigned byte as f32."""

    def codegen(ctx, b, sig, args):
        return b.uitofp(b.extract_element(args[0], b.trunc(args[1], I32)), F32)

    return types.float32(v, types.int64), codegen


@intrinsic(prefer_literal=True)
def bytes_like(typingctx, v, value):
    """The literal ``value`` in every byte."""
    number = getattr(value, "literal_value", None)
    if number is None:
        return None
    signed = number - 256 if number > 127 else number
    return v(v, value), lambda ctx, b, sig, args: constant("i8", [signed] * v.lanes)


DOT4_INSTRUCTIONS = {16: "512", 8: "256", 4: "128"}


def dot4_into(builder: Any, accumulator: Any, unsigned: Any, signed: Any, tier: Tier) -> Any:
    """accumulator[i] += sum over j of unsigned[4i + j] * signed[4i + j], exactly."""
    lanes = accumulator.type.count
    if tier.has_dot4:
        name = f"llvm.x86.avx512.vpdpbusd.{DOT4_INSTRUCTIONS[lanes]}"
        return call_llvm(builder, name, accumulator.type, [accumulator, unsigned, signed])
    wide = llvm_vector("i32", 4 * lanes)
    products = builder.mul(builder.zext(unsigned, wide), builder.sext(signed, wide))
    for j in range(4):
        accumulator = builder.add(
            accumulator, shuffle(builder, products, products, range(j, 4 * lanes, 4))
        )
    return accumulator


@intrinsic
def dot4(typingctx, accumulator, unsigned, signed):
    """Four products of unsigned and signed bytes added to every lane."""
    tier = tier_of(typingctx)
    return accumulator(accumulator, unsigned, signed), lambda ctx, b, sig, args: dot4_into(
        b, *args, tier
    )


# Arithmetic


def _define_binary(method: str) -> Callable[..., Any]:
    @intrinsic
    def operation(typingctx, x, y):
        return x(x, y), lambda ctx, b, sig, args: getattr(b, method)(*args)

    return operation


add, sub, mul, div = map(_define_binary, ("fadd", "fsub", "fmul", "fdiv"))
sub_i32 = _define_binary("sub")


@intrinsic
def fma(typingctx, x, y, z):
    """x * y + z, rounded once where the tier has the instruction."""
    tier = tier_of(typingctx)
    return x(x, y, z), lambda ctx, b, sig, args: multiply_add(b, *args, tier)


@intrinsic
def maximum(typingctx, x, y):
    """The larger of each pair; ``y`` where ``x`` is not a number."""
    return x(x, y), lambda ctx, b, sig, args: b.select(b.fcmp_ordered(">", *args), *args)


@intrinsic
def magnitude(typingctx, x):
    """Absolute value."""

    def codegen(ctx, b, sig, args):
        return call_llvm(b, f"llvm.fabs.v{x.lanes}f32", args[0].type, list(args))

    return x(x), codegen


@intrinsic
def to_f32(typingctx, v):
    """Signed integers as f32."""

    def codegen(ctx, b, sig, args):
        return b.sitofp(args[0], llvm_vector("f32", v.lanes))

    return Vector("f32", v.lanes)(v), codegen


def round_to_integer(builder: Any, values: Any) -> Any:
    """f32 of magnitude below 2**22 as i32, rounded to nearest even on every tier alike."""
    lanes = values.type.count
    magic = builder.fadd(values, constant("f32", [12582912.0] * lanes))
    bits = builder.bitcast(magic, llvm_vector("i32", lanes))
    return builder.sub(bits, constant("i32", [0x4B400000] * lanes))


@intrinsic
def store_rounded_bytes(typingctx, address, v):
    """Store f32 lanes of magnitude at most 127, rounded to nearest even, as signed bytes."""

    def codegen(ctx, b, sig, args):
        rounded = b.trunc(round_to_integer(b, args[1]), llvm_vector("i8", v.lanes))
        b.store(rounded, pointer(b, args[0], rounded.type), align=1)
        return ctx.get_dummy_value()

    return types.void(types.int64, v), codegen


@intrinsic
def exponential(typingctx, x):
    """exp(x) to about 1e-7 relative; 0 below -87 (minus infinity included), finite above 88."""
    lanes, tier = x.lanes, tier_of(typingctx)

    def codegen(ctx, b, sig, args):
        def each(value):
            return constant("f32", [value] * lanes)

        def fused(*operands):
            return multiply_add(b, *operands, tier)

        tiny = b.fcmp_ordered("<", args[0], each(-87.0))
        clamped = b.select(tiny, each(-87.0), args[0])
        clamped = b.select(b.fcmp_ordered(">", clamped, each(88.0)), each(88.0), clamped)
        power = round_to_integer(b, b.fmul(clamped, each(1.4426950408889634)))
        n = b.sitofp(power, args[0].type)
        rest = fused(n, each(-0.693359375), clamped)
        rest = fused(n, each(2.12194440e-4), rest)
        # Cephes expf: minimax polynomial on [-ln(2)/2, ln(2)/2].
        series = each(1.9875691500e-4)
        for coefficient in (
            1.3981999507e-3,
            8.3334519073e-3,
            4.1665795894e-2,
            1.6666665459e-1,
            0.5,
        ):
            series = fused(series, rest, each(coefficient))
        value = b.fadd(fused(series, b.fmul(rest, rest), rest), each(1.0))
        exponent = b.shl(
            b.add(power, constant("i32", [127] * lanes)), constant("i32", [23] * lanes)
        )
        value = b.fmul(value, b.bitcast(exponent, args[0].type))
        return b.select(tiny, each(0.0), value)

    return x(x), codegen


@intrinsic
def mask_from(typingctx, x, count):
    """Minus infinity in lane ``count`` and all above."""

    def codegen(ctx, b, sig, args):
        limit = splat(b, b.trunc(args[1], I32), x.lanes)
        keep = b.icmp_signed("<", constant("i32", range(x.lanes)), limit)
        return b.select(keep, args[0], constant("f32", [float("-inf")] * x.lanes))

    return x(x, types.int64), codegen


@intrinsic
def swap_pairs(typingctx, v):
    """Lanes 1 0 3 2 …"""
    order = [i ^ 1 for i in range(v.lanes)]
    return v(v), lambda ctx, b, sig, args: shuffle(b, args[0], args[0], order)


def _define_reduction(combine: Callable[[Any, Any, Any], Any]) -> Callable[..., Any]:
    @intrinsic
    def reduce_lanes(typingctx, v):
        def codegen(ctx, b, sig, args):
            vector, width = args[0], v.lanes
            while width > 1:
                width //= 2
                low = shuffle(b, vector, vector, range(width))
                high = shuffle(b, vector, vector, range(width, 2 * width))
                vector = combine(b, low, high)
            return b.extract_element(vector, ir.Constant(I32, 0))

        return types.float32(v), codegen

    return reduce_lanes


sum_lanes = _define_reduction(lambda b, x, y: b.fadd(x, y))
max_lanes = _define_reduction(lambda b, x, y: b.select(b.fcmp_ordered(">", x, y), x, y))


# Single numbers


def _define_read(
    llvm_type: Any, numba_type: Any, convert: Callable[[Any, Any], Any]
) -> Callable[..., Any]:
    @intrinsic
    def read(typingctx, address):
        def codegen(ctx, b, sig, args):
            return convert(b, load_at(b, args[0], llvm_type))

        return numba_type(types.int64), codegen

    return read


read_f32 = _define_read(F32, types.float32, lambda b, x: x)
read_i32 = _define_read(I32, types.int64, lambda b, x: b.sext(x, I64))
read_u32 = _define_read(I32, types.int64, lambda b, x: b.zext(x, I64))
read_i64 = _define_read(I64, types.int64, lambda b, x: x)


@intrinsic
def write_f32(typingctx, address, value):
    """Store one f32."""

    def codegen(ctx, b, sig, args):
        b.store(args[1], pointer(b, args[0], F32), align=1)
        return ctx.get_dummy_value()

    return types.void(types.int64, types.float32), codegen


@intrinsic
def read_half(typingctx, address):
    """One IEEE half as f32."""
    tier = tier_of(typingctx)

    def codegen(ctx, b, sig, args):
        bits = splat(b, load_at(b, args[0], I16), 4)
        return b.extract_element(half_bits_to_f32(b, bits, tier), ir.Constant(I32, 0))

    return types.float32(types.int64), codegen


def _define_write_float(kind: str) -> Callable[..., Any]:
    @intrinsic
    def write(typingctx, address, value):
        tier = tier_of(typingctx)

        def codegen(ctx, b, sig, args):
            if kind == "f32":
                b.store(args[1], pointer(b, args[0], F32), align=1)
            else:
                bits = f32_to_half_bits(b, splat(b, args[1], 4), tier)
                b.store(
                    b.extract_element(bits, ir.Constant(I32, 0)), pointer(b, args[0], I16), align=1
                )
            return ctx.get_dummy_value()

        return types.void(types.int64, types.float32), codegen

    return write


write_f16 = _define_write_float("f16")


@intrinsic
def square_root(typingctx, x):
    """Correctly rounded square root."""
    return types.float32(types.float32), lambda ctx, b, sig, args: call_llvm(
        b, "llvm.sqrt.f32", F32, list(args)
    )
