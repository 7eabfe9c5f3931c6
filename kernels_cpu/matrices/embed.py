"""The embedding lookup: expands the rows of the chosen tokens to f32.

How the blocks of a format are read is left to ``formats.blocks``.
"""

from __future__ import annotations

from edgellama.kernels_cpu.formats.blocks import BLOCK_CODES
from edgellama.kernels_cpu.matrices.gemv import FLOAT_LOADS
from edgellama.kernels_cpu.simd.arithmetic import fma, max_lanes
from edgellama.kernels_cpu.simd.device import device
from edgellama.kernels_cpu.simd.vectors import f32_zeros_4, read_i32, splat_f32, store
from edgellama.kernels_cpu.simd.weight_bytes import WEIGHTS_TO_F32
from edgellama.kernels_cpu.threads.tasks import tasks_of


def quantized_embed(name):
    """Rows of blocks, dequantized; one token a task."""
    code = BLOCK_CODES[name]
    low, high = (
        _piece(WEIGHTS_TO_F32[code.is_wide], *parts)
        for parts in zip(code.quants, code.scale, code.minimum, strict=True)
    )

    def kernel(
        weights, row_bytes, num_columns, tokens, y, y_stride, num_tokens, counter, thread, job
    ):  # fmt: skip
        for token in tasks_of(counter, job, num_tokens):
            row = weights + read_i32(tokens + 4 * token) * row_bytes
            for block in range(num_columns // 32):
                low(row, block, y + token * y_stride + 128 * block)
                high(row, block, y + token * y_stride + 128 * block + 64)

    return kernel


def _piece(to_floats, quants, scale_of, minimum_of):
    """16 weights as f32 at ``y``."""

    def piece(row, block, y):
        like = f32_zeros_4()
        scales = scale_of(row, block, like)
        minimum = max_lanes(minimum_of(row, block, like, scales))
        scale = max_lanes(scales)
        weights = to_floats(quants(row, block, like))
        store(y, fma(weights, splat_f32(scale, weights), splat_f32(minimum, weights)))

    return device(piece)


def float_embed(name):
    """Rows of float weights as f32; columns a multiple of 4."""
    load, number_bytes = FLOAT_LOADS[name]

    def kernel(
        weights, row_bytes, num_columns, tokens, y, y_stride, num_tokens, counter, thread, job
    ):
        for token in tasks_of(counter, job, num_tokens):
            row = weights + read_i32(tokens + 4 * token) * row_bytes
            for i in range(0, num_columns, 4):
                store(y + token * y_stride + 4 * i, load(row + i * number_bytes, f32_zeros_4()))

    return kernel
