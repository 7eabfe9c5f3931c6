"""A LoRA adapter in a GGUF file, as ``convert-lora`` and llama.cpp write it: pairs of factors.

It knows which of its tensors belong together, and whether they fit a model's matrices. Everything
that is not plain LoRA is refused. The engine and the converter use the factors.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

from edgellama.quant.error_text import shape_text, shown
from edgellama.quant.errors import ModelFileError, UnsupportedModelError
from edgellama.quant.gguf.file import GGUFFile
from edgellama.quant.gguf.tensors import Tensor
from edgellama.quant.llama_tensors import OUTPUT, Shape
from edgellama.quant.model_config import ARCHITECTURES, EMBEDDING, HALF_SPLIT
from edgellama.quant.records import dataclass
from edgellama.quant.ways import Way

FACTOR_FORMATS = ("F32", "F16", "BF16", "Q8_0")
"""What factors are written in, by every program that writes them."""
_INVOCATION = "adapter.alora.invocation_tokens"


@dataclass(frozen=True)
class FactorPair:
    """What an adapter adds to the matrix ``name``: ``scale`` * b a.

    ``a`` is (rank, columns), ``b`` (rows, rank). Of the embedding ``a`` is (tokens, rank) and
    ``b`` (width, rank).
    """

    name: str
    a: Tensor
    b: Tensor
    scale: float

    @property
    def rank(self) -> int:
        """Columns of ``b``."""
        return self.b.shape[1]


@dataclass(frozen=True)
class AdapterFile:
    """An open adapter; its pairs by the names of the matrices, in the file's order."""

    path: Path
    pairs: Mapping[str, FactorPair]


def read_adapter(
    path: str | os.PathLike[str],
    shapes: Mapping[str, Shape],
    base: Path,
    max_rank: int,
    *,
    is_half_split: bool,
) -> AdapterFile:
    """The adapter in the file ``path``, for a model with matrices of these shapes.

    ``shapes``: (rows, columns) by GGUF name, without "output.weight" where it is the embedding.
    ``base``: the model's file, for messages. ``is_half_split``: whether the rows of its queries and
    keys are in Hugging Face's order. Raises ModelNotFoundError, ModelFileError for what
    is damaged or does not fit, UnsupportedModelError for what is no plain LoRA of a Llama.
    """
    file = GGUFFile(Path(path).expanduser())
    try:
        alpha = _alpha(file)
        _check_order(file, base, is_half_split)
        factors = _factors(file)
        pairs = {
            name: _pair(file.path, name, found, alpha, shapes, base)
            for name, found in factors.items()
        }
    finally:
        file.close()
    for pair in pairs.values():
        if pair.rank > max_rank:
            raise ModelFileError(
                f"{file.path}: the factors of {pair.name} have rank {pair.rank}; "
                f"allowed: 1 to {max_rank}"
            )
    return AdapterFile(file.path, pairs)


def _alpha(file: GGUFFile) -> float:
    """What the products are multiplied with, once divided by their rank; 0: nothing is."""
    expected = {
        "general.type": ("adapter",),
        "adapter.type": ("lora",),
        "general.architecture": ARCHITECTURES,
    }
    for key, needed in expected.items():
        value = file.metadata.get(key)
        if value not in needed:
            raise UnsupportedModelError(
                f"{file.path}: {key} is {shown(value)}; needed: a LoRA adapter of a Llama, "
                f"{needed[0]!r}"
            )
    if _INVOCATION in file.metadata:
        raise UnsupportedModelError(
            f"{file.path}: has {_INVOCATION}, activated LoRA; supported: plain LoRA"
        )
    value = file.metadata.get("adapter.lora.alpha", 0.0)
    if isinstance(value, (int, float)) and math.isfinite(value):
        return float(value)
    raise ModelFileError(
        f"{file.path}: adapter.lora.alpha is {shown(value)}; allowed: a finite number"
    )


def _check_order(file: GGUFFile, base: Path, is_half_split: bool) -> None:
    """Refuse factors for rows that the model has in another order."""
    architecture = file.metadata.get("general.architecture")
    if (architecture in HALF_SPLIT) != is_half_split:
        allowed = HALF_SPLIT if is_half_split else [a for a in ARCHITECTURES if a not in HALF_SPLIT]
        raise ModelFileError(
            f"{file.path}: general.architecture is {shown(architecture)}, whose queries and keys "
            f"have their rows in another order than {base}; needed: an adapter that was converted "
            f"for this model, of {', '.join(allowed)}",
            way=Way(
                f"convert_lora(FOLDER, base={str(base)!r}) converts it from PEFT's folder",
                f"convert it again from PEFT's folder: edgellama convert-lora FOLDER --base {base}",
            ),
        )


def _factors(file: GGUFFile) -> dict[str, dict[str, Tensor]]:
    """Factors "a" and "b" by the names of their matrices."""
    factors: dict[str, dict[str, Tensor]] = {}
    for tensor in file.tensors.values():
        name, _, letter = tensor.name.rpartition(".lora_")
        if letter not in ("a", "b") or not name:
            raise UnsupportedModelError(
                f"{file.path}: tensor {shown(tensor.name)} is no factor of LoRA; supported: "
                "names that end in .lora_a and .lora_b"
            )
        if tensor.format.name not in FACTOR_FORMATS:
            raise UnsupportedModelError(
                f"{file.path}: tensor {shown(tensor.name)} has format {tensor.format.name}; "
                f"supported: {', '.join(FACTOR_FORMATS)}"
            )
        factors.setdefault(name, {})[letter] = tensor
    if not factors:
        raise ModelFileError(f"{file.path}: holds 0 tensors; needed: the factors of an adapter")
    return factors


def _pair(
    path: Path,
    name: str,
    factors: Mapping[str, Tensor],
    alpha: float,
    shapes: Mapping[str, Shape],
    base: Path,
) -> FactorPair:
    shape = shapes.get(name)
    if shape is None or len(shape) != 2:
        raise ModelFileError(
            f"{path}: adapts {shown(name)}, a matrix that {base} does not have; needed: the model "
            "that the adapter was made for"
        )
    if len(factors) != 2:
        raise ModelFileError(f"{path}: {shown(name)} has {len(factors)} factor; needed: 2")
    if name == EMBEDDING and OUTPUT not in shapes:
        raise UnsupportedModelError(
            f"{path}: adapts {name}, which is the output too in {base}; supported: embeddings of "
            "models that have an output of their own"
        )
    a, b = factors["a"], factors["b"]
    rank = b.shape[1] if len(b.shape) == 2 else 0
    rows, columns = shape
    needed = ((rank, columns), (rows, rank))
    if name == EMBEDDING:
        needed = ((rows, rank), (columns, rank))
    if rank < 1 or (a.shape, b.shape) != needed:
        raise ModelFileError(
            f"{path}: the factors of {name} have shapes {shape_text(a.shape)} and "
            f"{shape_text(b.shape)}, which do not fit {shape_text(shape)}, its shape in {base}"
        )
    return FactorPair(name, a, b, alpha / rank if alpha else 1.0)
