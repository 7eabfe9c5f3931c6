"""Orders of the blocks of a super-block: where the bits of a quant lie when it is multiplied.

A format whose quants lie in one of ``BLOCK_ORDERS`` is read without moving them between lanes;
``activations`` lays out a token in the same order.
"""

from __future__ import annotations

import numpy as np

from edgellama.kernels_cpu.simd.device import device
from edgellama.kernels_cpu.simd.vectors import lane_count
from edgellama.quant.formats import QUARTERS


@device
def has_places(order):
    """Whether the two vectors whose products are packed together hold neighbouring bit fields."""
    return order == QUARTERS and lane_count() == 16


@device
def place_in_order(order, half):
    """How far up quants from number ``half`` on are left to lie: a shift saved in every second."""
    return (half >> 1) & 2 if has_places(order) else 0


@device
def unit_of_second(order):
    """What the products of every second vector count, for the place of their quants."""
    return np.float32(0.25) if has_places(order) else np.float32(1.0)
