"""Dot products of a tile over the words of a group of weights: the inner loop of long steps.

One turn of it, and what sums start at and become, is in ``dot_tiles``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgellama.kernels_cpu.machine.cpu import Tier
from edgellama.kernels_cpu.simd.compiler_barriers import HIDDEN, keep_order, unknown_twice
from edgellama.kernels_cpu.simd.device import device
from edgellama.kernels_cpu.simd.dot_tiles import ADD_WORD, FINISH_SUMS, WORD, define_start_sums
from edgellama.kernels_cpu.simd.tier_choice import by_tier


def _has_many_registers(tier: Tier) -> bool:
    """Whether a tile's sums, its f32 numbers and one word of each row fit the registers."""
    return tier.lanes == 16


def _define_add_words(add_word: Callable[..., Any], num_words: int) -> Callable[..., Any]:
    """A device function: ``add_word`` of so many words, a power of two, written out in order."""
    if num_words == 1:

        def add_words(sums, panel, step, x, x_stride, twice):
            sums = add_word(sums, panel, x, x_stride, twice)
            keep_order()
            return sums

    else:
        half_words = num_words // 2
        add_half = _define_add_words(add_word, half_words)

        def add_words(sums, panel, step, x, x_stride, twice):
            sums = add_half(sums, panel, step, x, x_stride, twice)
            second_x = x + half_words * WORD
            return add_half(sums, panel + half_words * step, step, second_x, x_stride, twice)

    return device(add_words)


def define_group_dots(num_words: int, centre: int, is_wide: bool) -> Callable[..., Any]:
    """A device function: dot products over ``num_words`` words of weights, less ``centre``.

    ``panel`` has four weights of each row in a vector's lane and a word every ``step`` bytes,
    ``x`` four quants a word; ``starts`` are the tokens' words of ``store_starts``. The result
    has the shape of ``tile``. With many registers the words are written out, each behind the one
    before it: a loop over so few costs Intel's processors up to a tenth.
    """
    start, add_word = define_start_sums(centre, is_wide), ADD_WORD[is_wide]
    finish, hidden = FINISH_SUMS[is_wide], HIDDEN[is_wide]

    def group_dots(tile, panel, step, x, x_stride, starts, start_stride):
        sums, twice = start(tile, starts, start_stride), unknown_twice(x_stride)
        for j in range(hidden(num_words)):
            sums = add_word(sums, panel + j * step, x + WORD * j, x_stride, twice)
        return finish(sums)

    add_words = _define_add_words(add_word, num_words)

    def group_dots_written_out(tile, panel, step, x, x_stride, starts, start_stride):
        sums, twice = start(tile, starts, start_stride), unknown_twice(x_stride)
        # One turn: the addresses that a loop needs are computed before it, and stay in registers.
        for j in range(0, hidden(num_words), num_words):
            sums = add_words(sums, panel + j * step, step, x + WORD * j, x_stride, twice)
        return finish(sums)

    return by_tier(_has_many_registers, group_dots_written_out, group_dots)
