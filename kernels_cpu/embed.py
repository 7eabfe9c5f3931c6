"""Embedding lookup: the rows of the chosen tokens as f32."""

from __future__ import annotations

from edgellama.kernels_cpu.blocks import BLOCK_CODES
from edgellama.kernels_cpu.gemv import FLOAT_LOADS
from edgellama.kernels_cpu.simd import byte_at, f32_zeros_4, max_lanes, read_i32, store, write_f32
from edgellama.kernels_cpu.tasks import claim, finish


def quantized_embed(name):
    """Rows of blocks, dequantized; one token a task."""
    code = BLOCK_CODES[name]
    quants, scale_of, minimum_of = code.quants, code.scale, code.minimum

    def kernel(
        weights, row_bytes, num_columns, tokens, y, y_stride, num_tokens, counter, thread, job
    ):
        like = f32_zeros_4()
        num_done = 0
        token = claim(counter, job, num_tokens)
        while token < num_tokens:
            row = weights + read_i32(tokens + 4 * token) * row_bytes
            for piece in range(num_columns // 16):
                block, half = piece // 2, piece % 2
                scales = scale_of(row, block, half, like)
                minimum = max_lanes(minimum_of(row, block, half, like, scales))
                scale = max_lanes(scales)
                unsigned = quants(row, block, half, like)
                for i in range(16):
                    value = byte_at(unsigned, i) * scale + minimum
                    write_f32(y + token * y_stride + 64 * piece + 4 * i, value)
            num_done += 1
            token = claim(counter, job, num_tokens)
        finish(counter, num_done, num_tokens)

    return kernel


def float_embed(name):
    """Rows of float weights as f32; columns a multiple of 4."""
    load, number_bytes = FLOAT_LOADS[name]

    def kernel(
        weights, row_bytes, num_columns, tokens, y, y_stride, num_tokens, counter, thread, job
    ):
        num_done = 0
        token = claim(counter, job, num_tokens)
        while token < num_tokens:
            row = weights + read_i32(tokens + 4 * token) * row_bytes
            for i in range(0, num_columns, 4):
                store(y + token * y_stride + 4 * i, load(row + i * number_bytes, f32_zeros_4()))
            num_done += 1
            token = claim(counter, job, num_tokens)
        finish(counter, num_done, num_tokens)

    return kernel
