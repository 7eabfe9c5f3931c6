"""The naive twin of every kernel: what it must compute, in obvious NumPy at double precision."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from gguf import GGMLQuantizationType, quants

from edgellama.quant.formats import FORMATS_BY_NAME, QUANTIZED_FORMATS

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

BLOCK = 32
HALF_OFFSETS = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q2_K": (80, 82),
    "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_NL": (0,), "IQ4_XS": (0,),
    "IQ2_XXS": (0,), "IQ2_XS": (0,), "IQ2_S": (0,), "IQ3_XXS": (0,), "IQ3_S": (0,),
    "IQ1_S": (0,), "IQ1_M": (48,), "TQ1_0": (52,), "TQ2_0": (64,), "MXFP4": (0,),
}  # fmt: skip
"""Where a block of each format holds half-precision numbers, or what it has for them."""
QUANT_BYTES = {
    "Q4_0": (2, 18), "Q4_1": (4, 20), "Q5_0": (2, 22), "Q5_1": (4, 24), "Q8_0": (2, 34),
    "Q2_K": (16, 80), "Q3_K": (0, 96), "Q4_K": (16, 144), "Q5_K": (16, 176), "Q6_K": (0, 192),
    "IQ4_NL": (2, 18), "IQ4_XS": (8, 136), "IQ2_XXS": (2, 66), "IQ2_XS": (2, 66), "IQ2_S": (2, 74),
    "IQ3_XXS": (2, 98), "IQ3_S": (2, 106), "IQ1_S": (2, 50), "IQ1_M": (0, 48), "TQ1_0": (0, 52),
    "TQ2_0": (0, 64), "MXFP4": (1, 17),
}  # fmt: skip
"""Where a block of each format holds quants: the first byte and the one behind the last."""


def random_weights(name: str, num_rows: int, num_columns: int, rng: Any) -> Array:
    """Rows (num_rows, row_bytes) u8 that use every bit pattern of the quants."""
    fmt = FORMATS_BY_NAME[name]
    shape = (num_rows, num_columns)
    if name == "F32":
        return rng.standard_normal(shape).astype(np.float32).view(np.uint8)
    if name == "F16":
        return rng.standard_normal(shape).astype(np.float16).view(np.uint8)
    if name == "BF16":
        return (
            (rng.standard_normal(shape).astype(np.float32).view(np.uint32) >> 16)
            .astype(np.uint16)
            .view(np.uint8)
        )
    num_blocks = num_columns // fmt.block_size
    blocks = rng.integers(0, 256, (num_rows, num_blocks, fmt.block_bytes), dtype=np.uint8)
    for offset in HALF_OFFSETS[name]:
        halves = rng.uniform(-0.02, 0.02, (num_rows, num_blocks)).astype(np.float16)
        set_factor(name, blocks, offset, halves)
    return blocks.reshape(num_rows, fmt.row_bytes(num_columns))


def set_factor(name: str, blocks: Array, offset: int, halves: Array) -> None:
    """Give blocks (…, bytes) what their factor at ``offset`` is: halves (…), or the like of them.

    IQ1_M holds a quarter in each of four words of scales, MXFP4 the next power of two.
    """
    if name == "IQ1_M":
        words = blocks[..., offset:].copy().view(np.uint16) & np.uint16(0xFFF)
        quarters = halves.view(np.uint16)[..., None] >> np.arange(0, 16, 4, np.uint16)
        blocks[..., offset:] = (words | quarters << np.uint16(12)).view(np.uint8)
    elif name == "MXFP4":
        powers = np.log2(np.maximum(np.abs(halves.astype(np.float64)), 2.0**-128))
        blocks[..., offset] = np.rint(powers) + 128
    else:
        blocks[..., offset : offset + 2] = halves[..., None].view(np.uint8)


def dequantize(name: str, weights: Array) -> Array:
    """Rows of any format as f32, by the ``gguf`` package."""
    return quants.dequantize(weights, GGMLQuantizationType[name])


def embed(name: str, weights: Array, tokens: Any) -> Array:
    """Rows of a table."""
    return dequantize(name, weights)[np.asarray(tokens)]


def quantize(x: Array) -> tuple[Array, Array]:
    """int8 of (tokens, columns) and one f32 scale a block: absmax / 127, rounded to even."""
    blocks = x.reshape(len(x), -1, BLOCK)
    largest = np.abs(blocks).max(-1, keepdims=True)
    with np.errstate(divide="ignore"):
        inverse = np.where(largest > 0, np.float32(127) / largest, np.float32(0))
    q = np.rint(blocks * inverse).astype(np.int8).reshape(x.shape)
    return q, (largest / np.float32(127))[:, :, 0]


def as_multiplied(name: str, x: Array) -> Array:
    """The activations that a matrix of this format sees, at double precision."""
    if name not in QUANTIZED_FORMATS:
        return x.astype(np.float64)
    q, scale = quantize(x)
    return (q.reshape(len(x), -1, BLOCK) * scale[:, :, None].astype(np.float64)).reshape(x.shape)


def matmul(name: str, weights: Array, x: Array) -> Array:
    """(tokens, rows): every row of the matrix times every token."""
    return as_multiplied(name, x) @ dequantize(name, weights).astype(np.float64).T


def matmul_magnitude(name: str, weights: Array, x: Array) -> Array:
    """The sum of the magnitudes that ``matmul`` adds up, which rounding errors grow with."""
    dense = np.abs(dequantize(name, weights).astype(np.float64))
    return np.abs(as_multiplied(name, x)) @ dense.T


def rms_norm(x: Array, weight: Array, epsilon: float) -> Array:
    """x / sqrt(mean(x²) + epsilon) * weight."""
    wide = x.astype(np.float64)
    return wide / np.sqrt((wide * wide).mean(-1, keepdims=True) + epsilon) * weight


def arrange_heads(x: Array, weight: Array | None, epsilon: float, num_pairs: int) -> Array:
    """x (…, size) normed if there is a weight, the halves of its first elements in turn."""
    heads = x.astype(np.float64) if weight is None else rms_norm(x, weight, epsilon)
    halves = heads[..., : 2 * num_pairs].reshape(*x.shape[:-1], 2, num_pairs)
    in_turn = halves.swapaxes(-1, -2).reshape(*x.shape[:-1], 2 * num_pairs)
    return np.concatenate([in_turn, heads[..., 2 * num_pairs :]], -1)


def swiglu(gate: Array, up: Array) -> Array:
    """gate / (1 + exp(-gate)) * up."""
    wide = gate.astype(np.float64)
    return wide / (1.0 + np.exp(-wide)) * up


def sum_squares(x: Array, added_to: float) -> Array:
    """Column by column, the squares of all rows and what was there."""
    return (x.astype(np.float64) ** 2).sum(0) + added_to


def rotate(x: Array, position: int, num_pairs: int, freq_base: float = 10000.0) -> Array:
    """Turn the first pairs (2i, 2i + 1) of x (tokens, heads, size) by their angles."""
    result = x.astype(np.float64)
    for token in range(len(x)):
        for i in range(num_pairs):
            angle = (position + token) * freq_base ** (-i / num_pairs)
            pair = result[token, :, 2 * i] + 1j * result[token, :, 2 * i + 1]
            turned = pair * np.exp(1j * angle)
            result[token, :, 2 * i], result[token, :, 2 * i + 1] = turned.real, turned.imag
    return result


def spread(x: Array) -> Array:
    """Heads (…, size) times a Hadamard matrix of each part of a power of two elements."""
    length = x.shape[-1] & -x.shape[-1]
    signs = [[(-1.0) ** (i & j).bit_count() for j in range(length)] for i in range(length)]
    parts = x.reshape(*x.shape[:-1], -1, length) @ (np.array(signs) / np.sqrt(length))
    return parts.reshape(x.shape)


def as_cached(kind: str, rows: Array) -> Array:
    """Rows of heads (…, size) as a cache of this type gives them back, as f32."""
    if kind == "bf16":
        bits = rows.view(np.uint32)
        return (bits + ((bits >> 16) & 1) + 0x7FFF & np.uint32(0xFFFF0000)).view(np.float32)
    if kind in ("f32", "f16"):
        return rows.astype({"f32": np.float32, "f16": np.float16}[kind]).astype(np.float32)
    parts = [numbers * scale.astype(np.float32) for numbers, scale in cached_blocks(kind, rows)]
    return np.concatenate(parts, -1)


def cached_blocks(kind: str, rows: Array) -> list[tuple[Array, Array]]:
    """Numbers, and their scale as f16, of each 32 elements or less of rows (…, size)."""
    blocks = np.split(rows, range(BLOCK, rows.shape[-1], BLOCK), -1)
    return [_rounded_block(kind, block) for block in blocks]


def _rounded_block(kind: str, block: Array) -> tuple[Array, Array]:
    """Q8_0 or Q4_0 of GGUF, of up to 32 elements with one scale."""
    places = np.abs(block).argmax(-1, keepdims=True)
    extreme = np.take_along_axis(block, places, -1)
    scale = np.abs(extreme) / np.float32(127) if kind == "q8_0" else extreme / np.float32(-8)
    with np.errstate(divide="ignore"):
        inverse = np.where(scale == 0, np.float32(0), np.float32(1) / scale)
    if kind == "q8_0":
        scaled = block * inverse
        numbers = np.trunc(scaled + np.copysign(np.float32(0.5), scaled))
    else:
        numbers = np.minimum(np.trunc(block * inverse + np.float32(8.5)), np.float32(15)) - 8
    return numbers, scale.astype(np.float16)


def attention(
    q: Array, keys: Array, values: Array, position: int, window: int | None = None
) -> Array:
    """Causal attention of q (tokens, heads, size) over keys (kv_heads, positions, size).

    ``window``: how many keys a token sees at most, its own included.
    """
    num_tokens, heads, size = q.shape
    group = heads // len(keys)
    y = np.zeros(q.shape)
    for token in range(num_tokens):
        seen = position + token + 1
        first = 0 if window is None else max(seen - window, 0)
        for head in range(heads):
            k = keys[head // group, first:seen].astype(np.float64)
            v = values[head // group, first:seen].astype(np.float64)
            scores = k @ q[token, head].astype(np.float64) / np.sqrt(size)
            weights = np.exp(scores - scores.max())
            y[token, head] = weights @ v / weights.sum()
    return y
