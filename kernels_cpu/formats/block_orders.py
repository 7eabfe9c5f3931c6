"""Orders of the blocks of a super-block: where the bits of a quant lie when it is multiplied.

A format whose quants lie in one of ``BLOCK_ORDERS`` is read without moving them between lanes;
``activations`` lays out a token in the same order. Of every four neighbouring blocks the last two
are multiplied some bits up from the foot of their bytes, which saves shifts.
"""

from __future__ import annotations

import numpy as np

from edgellama.kernels_cpu.simd.device import device
from edgellama.kernels_cpu.simd.vectors import lane_count
from edgellama.quant.formats import IN_ORDER, PAIRS, QUARTERS

UP = tuple({QUARTERS: 2, PAIRS: 1, IN_ORDER: 0}[order] for order in range(3))
"""How far up, per order: as far as four products still fit 16 bits."""


def _define_place(up):
    """How far up quants from number ``half`` on are left to lie."""

    def place(half):
        return ((half >> 2) & 1) * up

    return device(place)


PLACES = tuple(map(_define_place, UP))


@device
def is_packed_by_place():
    """Whether the two vectors whose products are packed together lie at different places."""
    return lane_count() == 16


def _define_units(up):
    """What a product counts, for its place: beside its token's scale, or once for a row's sum."""

    def unit_of_half(half):
        is_up = ((half >> 2) & 1) == 1 and not is_packed_by_place()
        return np.float32(2.0**-up) if is_up else np.float32(1.0)

    def unit_of_second():
        return np.float32(2.0**-up) if is_packed_by_place() else np.float32(1.0)

    return device(unit_of_half), device(unit_of_second)


UNITS = tuple(map(_define_units, UP))
"""Per order: of the products of a half block, and of those of every second vector."""
