"""The factors in a PEFT adapter's weights: paired, named as in GGUF, and checked for shape.

A pair adds scale * B A to a matrix of the base model. ``lora_config`` reads the scales.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgellama.convert.adapter.lora_base import LoraBase
from edgellama.convert.model.names import parse_name
from edgellama.convert.sources.safetensors_reader import read_safetensors
from edgellama.convert.sources.source_tensor import PermutedTensor, SourceTensor
from edgellama.quant.error_text import shape_text, shown
from edgellama.quant.errors import ModelFileError, ModelNotFoundError, UnsupportedModelError

logger = logging.getLogger(__name__)

WEIGHT_NAMES = ("adapter_model.safetensors", "adapter_model.bin")
EMBEDDING = "token_embd.weight"
_PREFIX = "base_model.model."
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<factor>[AB])(\.weight)?")


@dataclass(frozen=True)
class LoraPair:
    """The factors of one matrix: ``a`` (rank, columns) and ``b`` (rows, rank) in GGUF's order.

    ``name``: the matrix's GGUF name; ``module``: its name in PEFT's settings. Of the embedding,
    ``a`` has a column a token and ``b`` a row a dimension.
    """

    name: str
    module: str
    a: SourceTensor
    b: SourceTensor

    @property
    def rank(self) -> int:
        """Rows of ``a``."""
        return self.a.shape[0]


def read_lora_tensors(folder: Path) -> tuple[Path, dict[str, SourceTensor]]:
    """The adapter's file of weights and its tensors; ModelNotFoundError if there is none."""
    for name in WEIGHT_NAMES:
        path = folder / name
        if path.is_file():
            return path, _read(path)
    raise ModelNotFoundError(f"{folder} holds no weights; needed: {' or '.join(WEIGHT_NAMES)}")


def _read(path: Path) -> dict[str, SourceTensor]:
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    from edgellama.convert.sources.torch_reader import read_torch

    return read_torch(path)


def pair_factors(path: Path, tensors: Mapping[str, SourceTensor], base: LoraBase) -> list[LoraPair]:
    """All pairs of the file ``path``, in the order of its first factors.

    Raises UnsupportedModelError for tensors that are no factors of a Llama's matrix,
    ModelFileError for a factor without its partner and for shapes that do not fit the base.
    """
    factors: dict[str, dict[str, SourceTensor]] = {}
    for name, tensor in tensors.items():
        if ".base_layer." in name:
            logger.info("%s: %s, a copy of the base model's, is left out", path, name)
            continue
        match = _FACTOR.fullmatch(name.removeprefix(_PREFIX))
        if match is None:
            raise UnsupportedModelError(
                f"{path}: tensor {shown(name)} is no factor of LoRA, which a GGUF adapter cannot "
                "hold; merge the adapter into its base model and convert that"
            )
        factors.setdefault(match["module"], {})[match["factor"]] = tensor
    if not factors:
        raise ModelFileError(f"{path}: holds 0 tensors; needed: the factors of an adapter")
    pairs: dict[str, LoraPair] = {}
    for module, found in factors.items():
        pair = _pair(path, module, found, base)
        if pair.name in pairs:
            other = pairs[pair.name].module
            raise ModelFileError(
                f"{path}: modules {shown(other)} and {shown(module)} are both {pair.name}; "
                "needed: one"
            )
        pairs[pair.name] = pair
    return list(pairs.values())


def _pair(path: Path, module: str, factors: Mapping[str, SourceTensor], base: LoraBase) -> LoraPair:
    place = parse_name(f"{module}.weight", "hugging_face")
    if place is None:
        raise UnsupportedModelError(
            f"{path}: module {shown(module)} is of no Llama; supported: its matrices"
        )
    shape = base.shapes.get(place.gguf)
    if shape is None:
        raise ModelFileError(
            f"{path}: module {shown(module)} is {place.gguf}, a matrix that the base model "
            f"{base.path} does not have"
        )
    if set(factors) != {"A", "B"}:
        raise ModelFileError(f"{path}: module {shown(module)} has {len(factors)} factor; needed: 2")
    if place.gguf == EMBEDDING:
        if base.is_tied:
            raise UnsupportedModelError(
                f"{path}: module {shown(module)} adapts an embedding that is the output too; "
                "supported: embeddings of models that have an output of their own"
            )
        shape = shape[::-1]
    a, b = factors["A"], factors["B"]
    _check_shapes(path, module, a, b, shape)
    heads = base.heads(place.gguf)
    return LoraPair(place.gguf, module, a, b if heads is None else PermutedTensor(b, heads))


def _check_shapes(
    path: Path, module: str, a: SourceTensor, b: SourceTensor, shape: tuple[int, ...]
) -> None:
    rank = a.shape[0] if len(a.shape) == 2 else 0
    needed = ((rank, shape[1]), (shape[0], rank))
    if rank < 1 or (a.shape, b.shape) != needed:
        raise ModelFileError(
            f"{path}: module {shown(module)} has factors of shapes {shape_text(a.shape)} and "
            f"{shape_text(b.shape)}; needed: rank x {shape[1]} and {shape[0]} x rank, the base's"
        )
