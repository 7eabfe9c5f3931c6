"""Reads rows of IQ4_NL, IQ4_XS and MXFP4 side by side, one row in each lane.

The layout of a block is described in ``blocks_iquants``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from edgellama.kernels_cpu.formats.block_code import Reader
from edgellama.kernels_cpu.formats.blocks_iquants import look_up, look_up_mxfp4
from edgellama.kernels_cpu.formats.panel_code import (
    PanelCode,
    for_words,
    high_nibbles,
    leave_scale,
    low_nibbles,
)
from edgellama.kernels_cpu.formats.panels_legacy import block_panels, define_scales
from edgellama.kernels_cpu.layouts import SUPER_BLOCK
from edgellama.kernels_cpu.simd.arithmetic import mul
from edgellama.kernels_cpu.simd.device import device
from edgellama.kernels_cpu.simd.exponents import exponents_of_words
from edgellama.kernels_cpu.simd.integers import flip_sign_bits, merge, shift_all
from edgellama.kernels_cpu.simd.rows_in_lanes import (
    bits_at,
    half_of_words,
    load_words,
    signed_byte,
    words_at,
)
from edgellama.kernels_cpu.simd.vectors import f32_zeros, splat_f32


def define_looked_up(table: Reader) -> Reader:
    """A device function: what 16 bytes of nibbles stand for, the low ones first."""
    look_up_words = for_words(table)

    def looked_up(base, steps):
        words = load_words(base, steps)
        return look_up_words(low_nibbles(words)), look_up_words(high_nibbles(words))

    return device(looked_up)


looked_up, looked_up_mxfp4 = define_looked_up(look_up), define_looked_up(look_up_mxfp4)


@device
def iq4_nl_quants(base, steps, part, room):
    return looked_up(base + 18 * part + 2, steps)


@device
def iq4_xs_scales(base, steps, num_blocks, room):
    factors, low, _, _ = load_words(base, steps)
    scale = mul(half_of_words(factors, 0), splat_f32(np.float32(0.25), f32_zeros()))
    high = shift_all(factors, 16)
    for block in range(SUPER_BLOCK):
        # Shifted up, six bits of which 32 is taken are a signed byte.
        bits = merge(bits_at(low, -2, 60), bits_at(high, -6, 192))
        leave_scale(room, block, mul(signed_byte(flip_sign_bits(bits), 0), scale))
        low, high = shift_all(low, 4), shift_all(high, 2)


@device
def iq4_xs_quants(base, steps, part, room):
    return looked_up(base + 16 * part + 8, steps)


@device
def mxfp4_scales(base, steps, num_blocks, room):
    for block in range(num_blocks):
        leave_scale(room, block, exponents_of_words(words_at(base + 17 * block, steps)))


@device
def mxfp4_quants(base, steps, part, room):
    return looked_up_mxfp4(base + 17 * part + 1, steps)


I_QUANT_PANELS: Mapping[str, PanelCode] = MappingProxyType(
    {
        "IQ4_NL": block_panels("IQ4_NL", define_scales("IQ4_NL"), iq4_nl_quants),
        "MXFP4": block_panels("MXFP4", mxfp4_scales, mxfp4_quants),
        "IQ4_XS": block_panels("IQ4_XS", iq4_xs_scales, iq4_xs_quants),
    }
)
"""Per format name, how its blocks are read."""
