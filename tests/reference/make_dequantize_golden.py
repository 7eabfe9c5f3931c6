"""Writes tests/data/dequantize_golden.npz: quantized matrices as their own programs expand them.

Run in ``tests`` with torch, transformers 5, bitsandbytes, compressed-tensors and auto-gptq's files
installed (``pip install --no-deps auto-gptq``: its package is not imported, only files of it), and
two folders named: ``python -m reference.make_dequantize_golden AUTOAWQ LLAMA_STACK``, where
``pip download`` of autoawq 0.2.9 and llama_stack 0.0.61 were unpacked. The tests read only the
output.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import bitsandbytes.functional as bitsandbytes
import numpy as np
import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from transformers.integrations import finegrained_fp8

OUTPUT = Path(__file__).parent.parent / "data" / "dequantize_golden.npz"
ROWS, COLUMNS, GROUP = 32, 32, 8
AWQ_FUNCTIONS = ("unpack_awq", "awq_reverse_reorder_int_tensor")
Arrays = dict[str, Any]


def gptq_folder() -> Path:
    """Where auto_gptq's files are."""
    spec = importlib.util.find_spec("auto_gptq")
    assert spec is not None and spec.submodule_search_locations is not None
    return Path(next(iter(spec.submodule_search_locations)))


def file_module(path: Path) -> ModuleType:
    """A file as a module of its own."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def awq_functions() -> dict[str, Any]:
    """The functions about AWQ out of a module that could not be imported."""
    tree = ast.parse((gptq_folder() / "modeling" / "_utils.py").read_text("utf-8"))
    wanted = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name in AWQ_FUNCTIONS
    ]
    names: dict[str, Any] = {"torch": torch}
    exec(compile(ast.Module(wanted, []), "awq", "exec"), names)
    return names


def quantized(rng: np.random.Generator, bits: int, lowest_zero: int = 1) -> tuple[Any, Any, Any]:
    """Integers (rows, columns), zero points and scales (rows, groups) that halves can hold."""
    groups = COLUMNS // GROUP
    integers = rng.integers(0, 1 << bits, (ROWS, COLUMNS))
    zeros = rng.integers(lowest_zero, 1 << bits, (ROWS, groups))
    scales = rng.uniform(0.001, 0.1, (ROWS, groups)).astype(np.float16)
    return integers, zeros, scales.astype(np.float32)


def gptq(rng: np.random.Generator, bits: int, *, act_order: bool) -> Arrays:
    """auto_gptq packs a matrix, and multiplies the identity with it."""
    module = file_module(gptq_folder() / "nn_modules" / "qlinear" / "qlinear_cuda.py")
    integers, zeros, scales = quantized(rng, bits)
    groups = np.arange(COLUMNS) // GROUP
    if act_order:
        groups = rng.permutation(groups)
    weights = (integers - zeros[:, groups]) * scales[:, groups]
    linear = torch.nn.Linear(COLUMNS, ROWS, bias=False)
    linear.weight.data = torch.from_numpy(weights.astype(np.float32))
    layer = module.QuantLinear(bits, GROUP, COLUMNS, ROWS, False, weight_dtype=torch.float32)
    stated = torch.from_numpy(groups.astype(np.int32))
    layer.pack(linear, torch.from_numpy(scales), torch.from_numpy(zeros).float(), stated)
    expanded = layer(torch.eye(COLUMNS)).T.contiguous()
    return {
        "qweight": layer.qweight.numpy(),
        "qzeros": layer.qzeros.numpy(),
        "scales": layer.scales.numpy().astype(np.float16),
        "g_idx": layer.g_idx.numpy(),
        "expected": expanded.detach().numpy(),
    }


def awq(rng: np.random.Generator) -> Arrays:
    """Random words, as auto_gptq reads AWQ's."""
    groups = COLUMNS // GROUP
    words = rng.integers(-(2**31), 2**31, (COLUMNS, ROWS // 8), dtype=np.int32)
    zeros = rng.integers(-(2**31), 2**31, (groups, ROWS // 8), dtype=np.int32)
    scales = rng.uniform(0.001, 0.1, (groups, ROWS)).astype(np.float16)
    torch.Tensor.cuda = lambda self: self  # type: ignore[method-assign,assignment,misc]
    parts = (torch.from_numpy(part) for part in (words, zeros, scales.astype(np.float64)))
    # Its products are halves: so the integers, by scales of one, and the scales by themselves.
    unpack = awq_functions()["unpack_awq"]
    words_, zeros_, _ = parts
    differences, _ = unpack(words_, zeros_, torch.ones(groups, ROWS), 4, GROUP)
    group = np.arange(COLUMNS) // GROUP
    expected = differences.numpy() * scales.astype(np.float32).T[:, group]
    return {
        "qweight": words,
        "qzeros": zeros,
        "scales": scales,
        "expected": expected.astype(np.float32),
    }


def packed(rng: np.random.Generator, bits: int, *, symmetric: bool) -> Arrays:
    """compressed-tensors packs signed integers and zero points."""
    middle = 1 << (bits - 1)
    integers, zeros, scales = quantized(rng, bits, 0)
    zeros = np.full_like(zeros, middle) if symmetric else zeros
    group = np.arange(COLUMNS) // GROUP
    signed = torch.from_numpy((integers - middle).astype(np.int8))
    signed_zeros = torch.from_numpy((zeros - middle).astype(np.int8))
    arrays = {
        "weight_packed": pack_to_int32(signed, bits).numpy(),
        "weight_scale": scales.astype(np.float16),
        "weight_shape": np.array([ROWS, COLUMNS], np.int64),
        "expected": ((integers - zeros[:, group]) * scales[:, group]).astype(np.float32),
    }
    if not symmetric:
        arrays["weight_zero_point"] = pack_to_int32(signed_zeros, bits, packed_dim=0).numpy()
    return arrays


def fp8(rng: np.random.Generator, shape: tuple[int, int], block: list[int] | None) -> Arrays:
    """transformers expands FP8 with a scale for each block, or one for all."""
    numbers = torch.from_numpy(rng.normal(0, 60, shape).astype(np.float32))
    weight = numbers.to(torch.float8_e4m3fn)
    counts = [-(-n // size) for n, size in zip(shape, block or shape, strict=True)]
    scale = rng.uniform(0.001, 0.01, counts if block else ()).astype(np.float32)
    expand = finegrained_fp8._dequantize_fp8_weight
    expected = expand(weight, torch.from_numpy(np.array(scale)), block, torch.float32)
    return {
        "weight": weight.view(torch.uint8).numpy(),
        "weight_scale_inv" if block else "weight_scale": scale,
        "expected": expected.numpy(),
    }


def four_bits(rng: np.random.Generator, kind: str, *, nested: bool) -> Arrays:
    """bitsandbytes quantizes a matrix whose blocks run over the ends of rows, and expands it."""
    weights = torch.from_numpy(rng.normal(0, 1, (24, 40)).astype(np.float32))
    packed_weights, state = bitsandbytes.quantize_4bit(
        weights, blocksize=64, compress_statistics=nested, quant_type=kind
    )
    parts = {f"weight.{part}": array.numpy() for part, array in state.as_dict(packed=True).items()}
    expected = bitsandbytes.dequantize_4bit(packed_weights, state)
    return {"weight": packed_weights.numpy(), **parts, "expected": expected.numpy()}


def eight_bits(rng: np.random.Generator) -> Arrays:
    """bitsandbytes quantizes each row to int8, and expands it."""
    weights = torch.from_numpy(rng.normal(0, 1, (24, 20)).astype(np.float16))
    numbers, scales, _ = bitsandbytes.int8_vectorwise_quant(weights)
    expected = bitsandbytes.int8_vectorwise_dequant(numbers, scales)
    return {
        "weight": numbers.numpy(),
        "SCB": scales.numpy(),
        "weight_format": np.zeros((), np.uint8),
        "expected": expected.numpy(),
    }


def awq_rows(rng: np.random.Generator, folder: Path) -> Arrays:
    """AutoAWQ packs a matrix for its GEMV kernels."""
    source = (folder / "awq" / "modules" / "linear" / "gemv.py").read_text("utf-8")
    names: dict[str, Any] = {"torch": torch, "nn": torch.nn}
    exec(source[source.index("def make_divisible") :], names)
    integers = rng.integers(0, 16, (32, 96))
    zeros = rng.integers(1, 16, (32, 3))
    scales = rng.uniform(0.001, 0.1, (32, 3)).astype(np.float16).astype(np.float32)
    group = np.arange(96) // 32
    weights = ((integers - zeros[:, group]) * scales[:, group]).astype(np.float32)
    linear = torch.nn.Linear(96, 32, bias=False)
    linear.weight.data = torch.from_numpy(weights)
    scales_, zeros_ = torch.from_numpy(scales), torch.from_numpy(zeros)
    layer = names["WQLinear_GEMV"].from_linear(linear, 4, 32, scales=scales_, zeros=zeros_)
    parts = {part: getattr(layer, part).numpy() for part in ("qweight", "qzeros", "scales")}
    return {**parts, "expected": weights}


def meta(rng: np.random.Generator, folder: Path | None) -> Arrays:
    """Meta's int4 in groups of 32: with an adaptor, or with the rotation of ``folder``."""
    integers = rng.integers(-8, 8, (24, 64)).astype(np.int8)
    scales = rng.uniform(0.001, 0.1, (24, 2)).astype(np.float32)
    matrix = integers * scales.repeat(32, axis=1)
    parts: Arrays = {"weight": integers, "scales": scales}
    if folder is not None:
        place = "llama_stack/providers/inline/inference/meta_reference/quantization"
        rotate = file_module(folder / place / "hadamard_utils.py").hadamard_transform
        # What the rotated input of each column alone makes.
        return {**parts, "expected": (rotate(torch.eye(64)) @ matrix.T).T.contiguous().numpy()}
    down, up = (rng.normal(0, 0.1, shape).astype(np.float16) for shape in ((4, 64), (24, 4)))
    product = up.astype(np.float32) @ down.astype(np.float32)
    adaptors = {"adaptor.A.weight": down, "adaptor.B.weight": up}
    return {**parts, **adaptors, "expected": matrix + 2 * product}


def main() -> None:
    """Every method with its parts, named METHOD/PART."""
    autoawq, llama_stack = map(Path, sys.argv[1:])
    rng = np.random.default_rng(13)
    cases = {f"gptq-{bits}": gptq(rng, bits, act_order=False) for bits in (2, 3, 4, 8)}
    cases["gptq-4-act-order"] = gptq(rng, 4, act_order=True)
    cases["awq"] = awq(rng)
    cases["packed-4"] = packed(rng, 4, symmetric=True)
    cases["packed-4-zeros"] = packed(rng, 4, symmetric=False)
    cases["packed-8-zeros"] = packed(rng, 8, symmetric=False)
    cases["fp8-tensor"] = fp8(rng, (24, 20), None)
    cases["fp8-blocks"] = fp8(rng, (24, 20), [16, 16])
    cases["nf4"] = four_bits(rng, "nf4", nested=False)
    cases["nf4-nested"] = four_bits(rng, "nf4", nested=True)
    cases["fp4"] = four_bits(rng, "fp4", nested=False)
    cases["int8-rows"] = eight_bits(rng)
    cases["awq-rows"] = awq_rows(rng, autoawq)
    cases["meta-adaptor"] = meta(rng, None)
    cases["meta-rotated"] = meta(rng, llama_stack)
    codes = torch.arange(256, dtype=torch.uint8)
    types = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}
    types |= {"F8_E4M3FNUZ": torch.float8_e4m3fnuz, "F8_E5M2FNUZ": torch.float8_e5m2fnuz}
    types["F8_E8M0"] = torch.float8_e8m0fnu
    arrays = {f"{name}/{part}": a for name, parts in cases.items() for part, a in parts.items()}
    arrays |= {f"values/{name}": codes.view(t).float().numpy() for name, t in types.items()}
    np.savez_compressed(OUTPUT, **arrays)


if __name__ == "__main__":
    main()
