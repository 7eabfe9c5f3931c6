"""Makes an adapter of its open file, whose factors stay where they are mapped, if kernels can read
them there.

Two kinds are copied: factors whose rank is no multiple of four, and second factors in blocks of
Q8_0. First factors of quantized matrices become Q8_0, since their input exists only as int8.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgellama.engine.weights.adapter import Adapter, LowRank
from edgellama.engine.weights.memory import round_up
from edgellama.engine.weights.weights import Matrix
from edgellama.quant.array_types import Octets
from edgellama.quant.digests import blake2b
from edgellama.quant.errors import ModelFileError
from edgellama.quant.gguf.adapter_file import AdapterFile, FactorPair
from edgellama.quant.gguf.tensors import Tensor
from edgellama.quant.model_config import EMBEDDING

RANK_MULTIPLE = 4
"""Columns of a matrix of floats come in as many as the smallest vector has."""
DIGEST_BYTES = 16
FloatArray = npt.NDArray[np.float32]
_Q8_0 = np.dtype([("scale", "<f2"), ("quants", "i1", 32)])
_FORMAT_TYPES: Mapping[str, str] = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def make_adapter(name: str, file: AdapterFile, quantized: Collection[str]) -> Adapter:
    """The adapter of an open file. ModelFileError if a factor holds NaN or Inf.

    ``quantized``: names of the model's matrices whose input is int8.
    """
    digest = blake2b(digest_size=DIGEST_BYTES)
    pairs: dict[str, LowRank] = {}
    num_bytes = 0
    for matrix, pair in file.pairs.items():
        digest.update(f"{matrix} {pair.a.shape} {pair.b.shape} {pair.scale!r}\n".encode())
        for tensor in (pair.a, pair.b):
            _check_finite(file.path, tensor)
            digest.update(tensor.format.name.encode())
            digest.update(tensor.data.data)
            num_bytes += tensor.num_bytes
        pairs[matrix] = _low_rank(pair, matrix != EMBEDDING and matrix in quantized)
    ranks = tuple(sorted({pair.rank for pair in file.pairs.values()}))
    return Adapter(name, file.path, pairs, ranks, num_bytes, digest.digest())


def _low_rank(pair: FactorPair, is_quantized: bool) -> LowRank:
    rank = round_up(pair.rank, RANK_MULTIPLE)
    a_shape = pair.a.shape[0], rank
    if pair.name != EMBEDDING:
        a_shape = rank, pair.a.shape[1]
    a, b = _matrix(pair.a, a_shape), _matrix(pair.b, (pair.b.shape[0], rank))
    return LowRank(_quantized(a) if is_quantized else a, b, pair.scale)


def _matrix(tensor: Tensor, shape: tuple[int, int]) -> Matrix:
    """The tensor where it lies, or a copy with zeros up to ``shape``."""
    format_name, data = tensor.format.name, tensor.data
    if format_name == "Q8_0":
        format_name, data = "F32", _expanded(tensor).view(np.uint8).reshape(-1)
    if shape != tensor.shape:
        numbers = data.view(_FORMAT_TYPES[format_name]).reshape(tensor.shape)
        padded = np.zeros(shape, numbers.dtype)
        padded[: tensor.shape[0], : tensor.shape[1]] = numbers
        data = padded.view(np.uint8).reshape(-1)
    row_bytes = shape[1] * np.dtype(_FORMAT_TYPES[format_name]).itemsize
    return Matrix(tensor.name, format_name, *shape, row_bytes, data)


def _quantized(matrix: Matrix) -> Matrix:
    """Rows of floats as blocks of Q8_0."""
    numbers = _floats(matrix.data, matrix.format_name).reshape(-1, _Q8_0["quants"].shape[0])
    scales = (np.abs(numbers).max(axis=1) / 127).astype("<f2")
    blocks = np.zeros(len(numbers), _Q8_0)
    divisors = np.where(scales, scales, 1).astype(np.float32)[:, None]
    blocks["quants"] = np.clip(np.rint(numbers / divisors), -127, 127)
    blocks["scale"] = scales
    row_bytes = matrix.num_columns // _Q8_0["quants"].shape[0] * _Q8_0.itemsize
    data = blocks.view(np.uint8).reshape(-1)
    return replace(matrix, format_name="Q8_0", row_bytes=row_bytes, data=data)


def _floats(data: Octets, format_name: str) -> FloatArray:
    """Numbers of a float format as f32."""
    numbers = data.view(_FORMAT_TYPES[format_name])
    if format_name == "BF16":
        return (numbers.astype(np.uint32) << 16).view(np.float32)
    return numbers.astype(np.float32, copy=False)


def _expanded(tensor: Tensor) -> FloatArray:
    """Blocks of Q8_0 as f32."""
    blocks = tensor.data.view(_Q8_0)
    scaled = blocks["quants"] * blocks["scale"].astype(np.float32)[:, None]
    return np.ascontiguousarray(scaled, np.float32).reshape(tensor.shape)


def _check_finite(path: Path, tensor: Tensor) -> None:
    """A text's numbers would reach its neighbours' as NaN."""
    format_name = tensor.format.name
    if format_name == "Q8_0":
        is_finite = np.isfinite(tensor.data.view(_Q8_0)["scale"]).all()
    else:
        is_finite = np.isfinite(_floats(tensor.data, format_name)).all()
    if not is_finite:
        raise ModelFileError(f"{path}: tensor {tensor.name} holds NaN or Inf; needed: numbers")
