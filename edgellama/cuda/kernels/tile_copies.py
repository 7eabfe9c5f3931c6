"""Copies tiles of keys and values from pages into shared memory, and expands quantized numbers.

``fetch`` requests a tile. ``settle`` waits until the thread's own part has arrived, and expands it
if it is quantized. Between the two calls the kernel holds what ``fetch`` returned: nothing for
16-bit types on cards that copy past the registers, otherwise the words and scales as the page has
them. Where registers are scarce, ``fetch`` does nothing and ``settle`` does all the work.

Both take the same arguments. ``numbers`` and ``scales`` are the addresses of the tile's first chunk
and first scale; a position has ``num_chunks`` chunks, ``row_bytes`` apart; only the first
``num_keys`` positions of the tile have been stored; ``shared`` is the destination.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from edgellama.cuda.kernels.expansion import as_floats, as_pairs
from edgellama.cuda.kernels.lanes import each, lanes_of, spread
from edgellama.cuda.kernels.memory import GLOBAL, load_lanes, load_words
from edgellama.cuda.kernels.row_registers import registers, values_in
from edgellama.cuda.kernels.tile_moves import Copy
from edgellama.cuda.kernels.tile_registers import (
    global_in,
    shared_in,
    store_words_in,
    thread_in,
)
from edgellama.cuda.kernels.warp import FULL_MASK, call_nvvm
from edgellama.cuda.layouts import CHUNK_BYTES
from edgellama.cuda.prefill_tiles import PlainTile, Tile
from edgellama.kernels_cpu.simd.vectors import I32, tier_of


def copies(kind: str, tile: Tile, *, is_keys: bool) -> tuple[Any, Any]:
    """``fetch`` and ``settle`` of the keys or values of a tile."""
    copy = Copy(kind, is_keys, tile)
    return _fetch(copy), _settle(copy)


NUM_ARGUMENTS = 7
AT_ONCE = 4
"""Moves of a thread whose words are in registers together, if nothing was asked for before."""


def _fetch(copy: Copy) -> Any:
    @intrinsic
    def fetch(typingctx, numbers, scales, row_bytes, num_chunks, num_keys, shared, warp):
        """Ask for a tile; what is under way."""
        lanes, tier = lanes_of(typingctx, "i32"), tier_of(typingctx)
        result = registers(lanes, max(copy.words, 1))

        def codegen(ctx, b, sig, args):
            moves = _Moves(b, copy, args, lanes.width, tier)
            words = []
            if copy.is_asynchronous:
                moves.begin()
                if lanes.width == 1:
                    # Lanes without a chunk went around; matrices are loaded by all at once.
                    call_nvvm(b, "llvm.nvvm.bar.warp.sync", ir.VoidType(), [I32(FULL_MASK)])
            elif copy.words:
                words = [word for move in range(copy.moves) for word in moves.load(move)]
            return ctx.make_tuple(b, result, words or [each(lanes.llvm, 0)])

        return result(*[types.int64] * NUM_ARGUMENTS), codegen

    return fetch


def _settle(copy: Copy) -> Any:
    @intrinsic
    def settle(
        typingctx, under_way, numbers, scales, row_bytes, num_chunks, num_keys, shared, warp
    ):
        """Put all into its place; other threads see it behind a barrier."""
        lanes, tier = lanes_of(typingctx, "i32"), tier_of(typingctx)

        def codegen(ctx, b, sig, args):
            moves = _Moves(b, copy, args[1:], lanes.width, tier)
            if copy.is_asynchronous:
                moves.end()
                return ctx.get_dummy_value()
            found, words_each = values_in(b, args[0]), 4 + copy.has_scales
            for first in range(0, copy.moves, AT_ONCE):
                batch = range(first, min(first + AT_ONCE, copy.moves))
                if copy.words:
                    raw = [found[move * words_each : (move + 1) * words_each] for move in batch]
                else:
                    raw = [moves.load(move) for move in batch]
                for move, words in zip(batch, raw, strict=True):
                    moves.store(move, words)
            return ctx.get_dummy_value()

        return types.void(under_way, *[types.int64] * NUM_ARGUMENTS), codegen

    return settle


class _Moves:
    """LLVM code of all moves of a thread."""

    def __init__(self, builder: Any, copy: Copy, args: Any, width: int, tier: Any) -> None:
        self._builder, self._copy, self._width, self._tier = builder, copy, width, tier
        self._numbers, self._scales, self._row_bytes, chunks, keys, shared, warp = args
        self._chunk, self._position = copy.first(builder, thread_in(builder, warp, width))
        self._chunks, self._keys = (self._spread(value) for value in (chunks, keys))
        target = copy.target(builder, self._chunk, self._position)
        self._target = shared_in(builder, shared, target, width)
        self._sources = self._all_sources()

    def _spread(self, value: Any) -> Any:
        """An int64 as i32 in every lane."""
        return spread(self._builder, self._builder.trunc(value, I32), self._width)

    def _all_sources(self) -> list[Any]:
        """Addresses, each from the one before: the card has no registers to keep all."""
        b, copy = self._builder, self._copy
        offset = copy.source(b, self._chunk, self._position, self._spread(self._row_bytes))
        step = spread(b, copy.source_step(b, self._row_bytes), self._width)
        sources = [global_in(b, self._numbers, offset, self._width)]
        while len(sources) < copy.moves:
            sources.append(b.add(sources[-1], step))
        return sources

    def begin(self) -> None:
        """Begin to copy past the registers; in the CPU form places become NaN until the end."""
        for move in range(self._copy.moves):
            at, is_real = self._at(move, 0), self._is_real(move)
            if self._width == 1:
                is_there = self._is_there(move)
                _copy_on_card(self._builder, at, self._sources[move], is_there, is_real)
            else:
                words = [each(self._chunk.type, -1)] * (CHUNK_BYTES // 4)
                store_words_in(self._builder, at, words, self._width, is_real)

    def end(self) -> None:
        """Wait for all copies; the CPU form makes them as late as this."""
        if self._width == 1:
            _wait_for_copies(self._builder)
            return
        for move in range(self._copy.moves):
            is_there, is_real = self._is_there(move), self._is_real(move)
            words = _load_16_bytes(
                self._builder, self._sources[move], self._numbers, is_there, self._width
            )
            store_words_in(self._builder, self._at(move, 0), words, self._width, is_real)

    def load(self, move: int) -> list[Any]:
        """Four words, and the bits of their scale if they have one."""
        b, copy = self._builder, self._copy
        is_there = _both(b, self._is_there(move), self._is_real(move))
        words = _load_16_bytes(b, self._sources[move], self._numbers, is_there, self._width)
        if copy.has_scales:
            offsets = copy.scale_source(b, self._chunk, self._position, move)
            words.append(_load_scale(b, self._scales, offsets, is_there, self._width))
        return words

    def store(self, move: int, raw: list[Any]) -> None:
        """What ``load`` gave, expanded, into shared memory."""
        b, copy, is_real = self._builder, self._copy, self._is_real(move)
        if isinstance(copy.tile, PlainTile):
            expanded = as_floats(b, copy.kind, raw, self._tier)
        else:
            multiplied = copy.tile.multiplied[0 if copy.is_keys else 1]
            expanded = as_pairs(b, copy.kind, raw, self._tier, multiplied)
        for part, words in enumerate(expanded):
            store_words_in(b, self._at(move, part), words, self._width, is_real)

    def _at(self, move: int, part: int) -> Any:
        offset = each(self._target.type, self._copy.target_offset(move, part))
        return self._builder.add(self._target, offset)

    def _is_real(self, move: int) -> Any:
        return self._copy.is_real(self._builder, self._chunk, move)

    def _is_there(self, move: int) -> Any:
        """Threads whose chunk holds numbers; what else lies there may be no number.

        Keys behind the last do not matter, since nobody sees their scores.
        """
        b, copy, chunk = self._builder, self._copy, self._chunk
        behind = each(chunk.type, move * copy.step)
        if copy.is_keys:
            is_there, chunk = None, b.add(chunk, behind)
        else:
            is_there = b.icmp_signed("<", b.add(self._position, behind), self._keys)
        if copy.has_scales:
            return is_there
        return _both(b, is_there, b.icmp_signed("<", chunk, self._chunks))


def _both(builder: Any, first: Any, second: Any) -> Any:
    """Two masks of which each may be None, for all."""
    if first is None or second is None:
        return first or second
    return builder.and_(first, second)


def _copy_on_card(builder: Any, target: Any, source: Any, is_there: Any, is_real: Any) -> None:
    """Begin to copy 16 bytes, or to write zeros."""
    num_bytes = builder.select(is_there, I32(CHUNK_BYTES), I32(0))
    copying = ir.InlineAsm(
        ir.FunctionType(ir.VoidType(), [target.type, source.type, I32]),
        "cp.async.cg.shared.global [$0], [$1], 16, $2;",
        "r,l,r,~{memory}",
        side_effect=True,
    )
    if is_real is None:
        builder.call(copying, [target, source, num_bytes])
    else:
        with builder.if_then(is_real):
            builder.call(copying, [target, source, num_bytes])


def _load_16_bytes(builder: Any, at: Any, base: Any, is_there: Any, width: int) -> list[Any]:
    """Four words, zeros where there is nothing."""
    if is_there is None:
        return load_words(builder, at, 4, GLOBAL, width)
    inside = builder.select(is_there, at, spread(builder, base, width))
    words = load_words(builder, inside, 4, GLOBAL, width)
    return [builder.select(is_there, word, each(word.type, 0)) for word in words]


def _load_scale(builder: Any, base: Any, offsets: Any, is_there: Any, width: int) -> Any:
    """The bits of a scale, zero where there is nothing: then the numbers do not matter."""
    if is_there is not None:
        offsets = builder.select(is_there, offsets, each(offsets.type, 0))
    at = global_in(builder, base, offsets, width)
    bits = builder.zext(load_lanes(builder, at, "i16", GLOBAL, width), offsets.type)
    return bits if is_there is None else builder.select(is_there, bits, each(bits.type, 0))


def _wait_for_copies(builder: Any) -> None:
    kind = ir.FunctionType(ir.VoidType(), [])
    waiting = ir.InlineAsm(kind, "cp.async.wait_all;", "~{memory}", side_effect=True)
    builder.call(waiting, [])
