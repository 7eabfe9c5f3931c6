"""Writes tests/data/small_float_golden.npz: NVFP4, MXFP4, MXFP8 and torchao's, and their values.

Run in ``tests`` with torch, transformers 5, compressed-tensors 0.20 and torchao 0.18 installed:
``python -m reference.make_small_float_golden``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from compressed_tensors.compressors.mx_utils import decompress_mx_scale
from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from compressed_tensors.quantization import QuantizationArgs, dequantize, preset_name_to_scheme
from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_
from transformers.integrations.bitnet import pack_weights

OUTPUT = Path(__file__).parent.parent / "data" / "small_float_golden.npz"
ROWS, COLUMNS = 24, 64
Arrays = dict[str, Any]


def weights_of(preset: str) -> QuantizationArgs:
    """How a preset of compressed-tensors stores weights."""
    args = preset_name_to_scheme(preset, ["Linear"]).weights
    assert args is not None
    return args


def four_bits(rng: np.random.Generator, preset: str) -> Arrays:
    """Random bytes as compressed-tensors expands them."""
    packed = rng.integers(0, 256, (ROWS, COLUMNS // 2), np.uint8)
    numbers = unpack_fp4_from_uint8(torch.from_numpy(packed), ROWS, COLUMNS, torch.float32)
    is_nvidia = preset == "NVFP4A16"
    whole = torch.tensor([413.0]) if is_nvidia else None
    if is_nvidia:
        stored = torch.from_numpy(rng.uniform(1, 400, (ROWS, COLUMNS // 16))).to(
            torch.float8_e4m3fn
        )
        scale = stored.float()
        stored = stored.view(torch.uint8)
    else:
        stored = torch.from_numpy(rng.integers(110, 130, (ROWS, COLUMNS // 32), np.uint8))
        scale = decompress_mx_scale(stored).float()
    expected = dequantize(
        numbers, scale, args=weights_of(preset), global_scale=whole, dtype=torch.float32
    )
    parts = {"weight_packed": packed, "weight_scale": stored.numpy(), "expected": expected.numpy()}
    return parts if whole is None else parts | {"weight_global_scale": whole.numpy()}


def eight_bits(rng: np.random.Generator) -> Arrays:
    """FP8 with powers of two as scales."""
    numbers = torch.from_numpy(rng.normal(0, 60, (ROWS, COLUMNS))).to(torch.float8_e4m3fn)
    stored = torch.from_numpy(rng.integers(110, 130, (ROWS, COLUMNS // 32), np.uint8))
    scale = decompress_mx_scale(stored).float()
    args = weights_of("MXFP8A16")
    expected = dequantize(numbers.float(), scale, args=args, dtype=torch.float32)
    return {
        "weight": numbers.view(torch.uint8).numpy(),
        "weight_scale": stored.numpy(),
        "expected": expected.numpy(),
    }


def packed(rng: np.random.Generator, bits: int, *, symmetric: bool) -> Arrays:
    """compressed-tensors packs integers that words do not hold evenly."""
    middle, groups = 1 << (bits - 1), COLUMNS // 16
    integers = rng.integers(-middle, middle, (ROWS, COLUMNS)).astype(np.int8)
    zeros = np.zeros((ROWS, groups), np.int8)
    if not symmetric:
        zeros = rng.integers(-middle, middle, (ROWS, groups)).astype(np.int8)
    scales = rng.uniform(0.001, 0.1, (ROWS, groups)).astype(np.float16)
    spread = np.arange(COLUMNS) // 16
    differences = integers.astype(np.float32) - zeros[:, spread]
    parts = {
        "weight_packed": pack_to_int32(torch.from_numpy(integers), bits).numpy(),
        "weight_scale": scales,
        "weight_shape": np.array([ROWS, COLUMNS], np.int64),
        "expected": differences * scales.astype(np.float32)[:, spread],
    }
    if not symmetric:
        stored = pack_to_int32(torch.from_numpy(zeros), bits, packed_dim=0)
        parts["weight_zero_point"] = stored.numpy()
    return parts


def bitnet(rng: np.random.Generator) -> Arrays:
    """transformers packs ternary numbers, and divides what they make by the scale."""
    numbers = torch.from_numpy(rng.integers(-1, 2, (ROWS, COLUMNS)).astype(np.float32))
    scale = np.array([37.5], np.float32)
    packed_numbers = pack_weights(numbers.clone())
    return {
        "weight": packed_numbers.numpy(),
        "weight_scale": scale,
        "expected": numbers.numpy() * (np.float32(1) / scale),
    }


def torchao(config: Any) -> Arrays:
    """A matrix as torchao quantizes it, under the names that it has in safetensors."""
    linear = torch.nn.Linear(COLUMNS, ROWS, bias=False)
    quantize_(linear, config)
    weight = linear.weight
    parts = {name: getattr(weight, name, None) for name in ("qdata", "scale", "zero_point")}
    arrays = {f"_weight_{name}": part for name, part in parts.items() if part is not None}
    if arrays["_weight_qdata"].dtype == torch.float8_e4m3fn:
        arrays["_weight_qdata"] = arrays["_weight_qdata"].view(torch.uint8)
    expected = weight.dequantize().detach().float().numpy()
    return {name: array.numpy() for name, array in arrays.items()} | {"expected": expected}


def main() -> None:
    """Every method with its parts, named METHOD/PART."""
    torch.manual_seed(3)
    rng = np.random.default_rng(3)
    cases = {
        "nvfp4": four_bits(rng, "NVFP4A16"),
        "mxfp4": four_bits(rng, "MXFP4A16"),
        "mxfp8": eight_bits(rng),
        "packed-5": packed(rng, 5, symmetric=True),
        "packed-6-zeros": packed(rng, 6, symmetric=False),
        "bitnet": bitnet(rng),
        "torchao-int8": torchao(Int8WeightOnlyConfig()),
        "torchao-fp8": torchao(Float8WeightOnlyConfig()),
    }
    arrays = {f"{name}/{part}": a for name, parts in cases.items() for part, a in parts.items()}
    np.savez_compressed(OUTPUT, **arrays)


if __name__ == "__main__":
    main()
