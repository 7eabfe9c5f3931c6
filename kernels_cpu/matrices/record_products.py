"""Integer products of blocks of weights with the record of a token.

``rows.activations`` describes the record and writes it. Adding the products up over a row is left
to ``gemv``.
"""

from __future__ import annotations

from edgellama.kernels_cpu.layouts import MAGNITUDES_AT, STARTS_AT
from edgellama.kernels_cpu.simd.device import device
from edgellama.kernels_cpu.simd.vectors import load_bytes, load_i32, width_of
from edgellama.kernels_cpu.simd.weight_bytes import define_dot8


def define_product(code):
    """A device function: the products of the blocks at ``block`` of a row and of a record.

    Eight in every lane, less what the format takes off all weights.
    """
    low, high = code.quants
    centre = 0 if code.has_minimum else code.centre
    dot8 = define_dot8(is_wide=code.is_wide, is_negatable=code.is_negatable, centre=centre)

    def product(row, block, record, like):
        width = width_of(like)
        first, second = load_bytes(record, like), load_bytes(record + 4 * width, like)
        magnitudes = record + MAGNITUDES_AT * width
        return dot8(
            low(row, block, like), high(row, block, like), first, second,
            load_bytes(magnitudes, like), load_bytes(magnitudes + 4 * width, like),
            load_i32(record + STARTS_AT * width, like),
        )  # fmt: skip

    return device(product)
