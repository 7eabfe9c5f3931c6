"""Rows in lanes, as in ``rows_in_lanes``, for formats whose bytes must be computed row by row.

The caller gives the function that computes 16 bytes of one row; this module transposes them, so
that each lane holds words of one row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from edgellama.kernels_cpu.simd.integers import concatenate
from edgellama.kernels_cpu.simd.rows_in_lanes import row_addresses, transposed_pieces
from edgellama.kernels_cpu.simd.sign_bits import negated_where
from edgellama.kernels_cpu.simd.vectors import I64, Vector, llvm_vector, tier_of


def define_words_of(pieces_of: Callable[..., Any]) -> Any:
    """An intrinsic: as ``load_words``, of the 16 bytes that ``pieces_of(address, half)`` makes."""

    @intrinsic
    def words_of(typingctx, address, half, steps):
        lanes, kind = tier_of(typingctx).lanes, typingctx.resolve_value_type(pieces_of)
        signature = kind.get_call_type(typingctx, (types.int64, types.int64), {})
        vector = Vector("i8", 4 * lanes)
        result = types.UniTuple(vector, 4)

        def codegen(ctx, b, sig, args):
            call = ctx.get_function(kind, signature)
            rows = row_addresses(b, args[0], args[2], lanes)
            pieces = [b.bitcast(call(b, [row, args[1]]), llvm_vector("i32", 4)) for row in rows]
            words = transposed_pieces(b, [concatenate(b, pieces[i::4]) for i in range(4)], lanes)
            kind_of_bytes = llvm_vector("i8", vector.lanes)
            return ctx.make_tuple(b, result, [b.bitcast(word, kind_of_bytes) for word in words])

        return result(types.int64, types.int64, steps), codegen

    return words_of


def define_signed_words(pieces_of: Callable[..., Any], signs_of: Callable[..., Any]) -> Any:
    """As ``define_words_of``; ``signs_of`` gives a bit for each byte, set where it is negated."""

    @intrinsic
    def signed_words(typingctx, address, half, steps):
        tier = tier_of(typingctx)
        lanes = tier.lanes
        kinds = [typingctx.resolve_value_type(function) for function in (pieces_of, signs_of)]
        numbers = types.int64, types.int64
        signatures = [kind.get_call_type(typingctx, numbers, {}) for kind in kinds]
        vector = Vector("i8", 4 * lanes)
        result = types.UniTuple(vector, 4)

        def codegen(ctx, b, sig, args):
            read_piece, read_signs = map(ctx.get_function, kinds, signatures)
            rows = row_addresses(b, args[0], args[2], lanes)
            pieces = [read_piece(b, [row, args[1]]) for row in rows]
            signs = [b.and_(read_signs(b, [row, args[1]]), I64(0xFFFF)) for row in rows]
            vectors = []
            for first in range(4):
                bits = I64(0)
                for place, sixteen in enumerate(signs[first::4]):
                    bits = b.or_(bits, b.shl(sixteen, I64(16 * place)))
                bits = b.trunc(bits, ir.IntType(4 * lanes))
                whole = negated_where(b, concatenate(b, pieces[first::4]), bits, tier)
                vectors.append(b.bitcast(whole, llvm_vector("i32", lanes)))
            words = transposed_pieces(b, vectors, lanes)
            kind = llvm_vector("i8", vector.lanes)
            return ctx.make_tuple(b, result, [b.bitcast(word, kind) for word in words])

        return result(*numbers, steps), codegen

    return signed_words
