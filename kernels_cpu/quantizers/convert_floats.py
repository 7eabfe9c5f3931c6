"""Converts numbers from f32 to F16 and BF16 and back, rounding to nearest even.

Which rows are converted is left to ``row_codec``.
"""

from __future__ import annotations

from edgellama.kernels_cpu.simd.halves import load_bf16, load_f16
from edgellama.kernels_cpu.simd.rounding import f32_zeros_1, f32_zeros_32, store_bf16, store_f16
from edgellama.kernels_cpu.simd.vectors import load_f32, store

STORES = {"F16": store_f16, "BF16": store_bf16}
LOADS = {"F16": load_f16, "BF16": load_bf16}
STEP = 32
"""Numbers converted at once; what is left at the end goes one by one."""


def round_floats(name):
    """f32 at ``x`` to as many 16-bit numbers at ``y``."""
    store_narrow = STORES[name]

    def kernel(x, num_values, y, thread, job):
        end = num_values // STEP * STEP
        for i in range(0, end, STEP):
            store_narrow(y + 2 * i, load_f32(x + 4 * i, f32_zeros_32()))
        for i in range(end, num_values):
            store_narrow(y + 2 * i, load_f32(x + 4 * i, f32_zeros_1()))

    return kernel


def widen(name):
    """16-bit numbers at ``x`` to as many f32 at ``y``."""
    load_wide = LOADS[name]

    def kernel(x, num_values, y, thread, job):
        end = num_values // STEP * STEP
        for i in range(0, end, STEP):
            store(y + 4 * i, load_wide(x + 2 * i, f32_zeros_32()))
        for i in range(end, num_values):
            store(y + 4 * i, load_wide(x + 2 * i, f32_zeros_1()))

    return kernel
