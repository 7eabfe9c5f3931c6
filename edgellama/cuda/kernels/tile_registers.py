"""Thread numbers, addresses, loads and stores for functions that build LLVM code of tiles.

The other ``tile_*`` modules put the resulting registers into tuples. Functions whose names end in
``_in`` build code for the card and for the CPU form alike.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from edgellama.cuda.kernels.lanes import KINDS, each, lanes_llvm, resized, spread
from edgellama.cuda.kernels.memory import SHARED, load_words, place, store_lanes
from edgellama.cuda.kernels.row_registers import lanes_in
from edgellama.kernels_cpu.simd.vectors import I32, I64


def thread_in(builder: Any, warp: Any, width: int) -> Any:
    """The number of each thread in its block; ``warp`` is its warp's, an int64."""
    first = spread(builder, builder.shl(builder.trunc(warp, I32), I32(5)), width)
    return builder.or_(first, lanes_in(builder, width))


def anew(builder: Any, value: Any) -> Any:
    """The same i32, from which LLVM computes nothing before a loop: registers are too few."""
    if isinstance(value.type, ir.VectorType):
        return value
    moving = ir.InlineAsm(ir.FunctionType(I32, [I32]), "mov.b32 $0, $1;", "=r,r", side_effect=True)
    return builder.call(moving, [value])


def constants(builder: Any, like: Any) -> Any:
    """A function that gives numbers of the type of ``like`` in every lane."""
    return lambda number: each(like.type, number)


def shared_in(builder: Any, base: Any, offsets: Any, width: int) -> Any:
    """Addresses in shared memory: 32 bits on the card, real ones in the CPU form."""
    if width == 1:
        return builder.add(builder.trunc(base, I32), offsets)
    return builder.add(spread(builder, base, width), resized(builder, offsets, "i64", width))


def global_in(builder: Any, base: Any, offsets: Any, width: int) -> Any:
    """Addresses in global memory: an int64, and bytes behind it in each lane."""
    return builder.add(spread(builder, base, width), resized(builder, offsets, "i64", width))


def store_words_in(
    builder: Any, addresses: Any, words: list[Any], width: int, mask: Any = None,
    space: int = SHARED,
) -> None:  # fmt: skip
    """Words of each lane to its address, a multiple of their bytes, at once."""
    if width > 1:
        everyone = ir.Constant(ir.VectorType(KINDS["mask"], width), [1] * width)
        for i, word in enumerate(words):
            at = builder.add(addresses, each(addresses.type, 4 * i))
            store_lanes(builder, at, word, mask or everyone, space, width)
        return
    kind = ir.VectorType(words[0].type, len(words))
    vector = ir.Constant(kind, ir.Undefined)
    for i, word in enumerate(words):
        vector = builder.insert_element(vector, word, I32(i))

    def store() -> None:
        at = place(builder, _whole(builder, addresses), kind, space, width)
        builder.store(vector, at, align=4 * len(words))

    if mask is None:
        store()
    else:
        with builder.if_then(mask):
            store()


def load_four_in(builder: Any, addresses: Any, width: int) -> list[Any]:
    """Four f32 of each lane from shared memory, at once."""
    words = load_words(builder, _whole(builder, addresses), 4, SHARED, width)
    return [builder.bitcast(word, floats(width)) for word in words]


def _whole(builder: Any, addresses: Any) -> Any:
    """Addresses of 64 bits."""
    return builder.zext(addresses, I64) if addresses.type == I32 else addresses


def floats(width: int) -> Any:
    """LLVM's type of an f32 in each lane."""
    return lanes_llvm("f32", width)
