"""Turns the multipliers of Granite's and MiniCPM's GGUF files into weights of a Llama.

Nothing is quantized anew. The stream of residuals may have any scale: it becomes the model's own
divided by the multiplier of residuals. So only the embedding changes, by the scales of its blocks,
and the last norm, which consists of floats; the epsilon of norms changes by the square of the
stream's scale. The multiplier of scores goes into the rotation of queries and keys.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from edgellama.convert import metadata
from edgellama.convert.metadata import MetadataItem
from edgellama.convert.model.derived_tensors import MultipliedTensor, ScaledBlocks
from edgellama.convert.model.multipliers import LARGEST, SMALLEST
from edgellama.convert.sources.source_tensor import SourceTensor
from edgellama.quant.config_keys import ConfigKeys
from edgellama.quant.errors import ModelFileError, UnsupportedModelError
from edgellama.quant.llama_tensors import OUTPUT
from edgellama.quant.model_config import EMBEDDING

ARCHITECTURES = ("granite", "minicpm")
_EMBEDDING, _RESIDUAL = "embedding_scale", "residual_scale"
_LOGITS, _ATTENTION = "logit_scale", "attention.scale"
_EPSILON, _MAGNITUDE = "attention.layer_norm_rms_epsilon", "rope.scaling.attn_factor"
_ROTATED, _IS_ROTATED = "rope.dimension_count", "rope.scaling.finetuned"
_LAST_NORM = "output_norm.weight"
# Multipliers of MiniCPM's first models, for files that are older than the keys for them.
_MINICPM_EMBEDDING, _MINICPM_DEPTH, _MINICPM_WIDTH = 12.0, 1.4, 256


@dataclass(frozen=True)
class GGUFMultipliers:
    """``embedding``: of embeddings; ``residual``: of what a layer adds; ``scores``: of products of
    queries and keys, over the usual one; logits are divided by ``logits``.
    """

    embedding: float
    residual: float
    scores: float
    logits: float

    @classmethod
    def of(cls, keys: ConfigKeys, head_size: int) -> GGUFMultipliers:
        """What the keys say. ModelFileError for a number that cannot be one."""
        usual = (1.0, 1.0, 1.0)
        is_granite = keys.architecture == ARCHITECTURES[0]
        if not is_granite:
            depth = _MINICPM_DEPTH / math.sqrt(keys.size("block_count"))
            usual = _MINICPM_EMBEDDING, depth, keys.size("embedding_length") / _MINICPM_WIDTH
        embedding, residual, logits = (
            _number(keys, name, default)
            for name, default in zip((_EMBEDDING, _RESIDUAL, _LOGITS), usual, strict=True)
        )
        root = math.sqrt(head_size)
        scores = _number(keys, _ATTENTION, 1 / root) * root if is_granite else 1.0
        if scores != 1 and keys.size(_ROTATED, head_size) != head_size:
            raise UnsupportedModelError(
                "scores are multiplied, and a part of each head is rotated; supported: one of both"
            )
        if keys.get(_IS_ROTATED) is False and is_granite:
            raise UnsupportedModelError("a Granite without rotary positions; supported: with them")
        return cls(embedding, residual, scores, logits)

    def items(self, keys: ConfigKeys, items: Mapping[str, MetadataItem]) -> dict[str, MetadataItem]:
        """The keys without those of multipliers, and what they change."""
        prefix = f"{keys.architecture}."
        own = (_EMBEDDING, _RESIDUAL, _LOGITS, _ATTENTION, _IS_ROTATED, _MAGNITUDE)
        found = {key: item for key, item in items.items() if key.removeprefix(prefix) not in own}
        epsilon = keys.number(_EPSILON) / self.residual**2
        magnitude = keys.number(_MAGNITUDE, 1.0) * math.sqrt(self.scores)
        found[f"{prefix}{_EPSILON}"] = metadata.number(epsilon)
        if magnitude != 1:
            found[f"{prefix}{_MAGNITUDE}"] = metadata.number(magnitude)
        return found

    def tensors(self, tensors: Mapping[str, SourceTensor]) -> dict[str, SourceTensor]:
        """The tensors of a Llama. UnsupportedModelError for blocks without scales of 16 bits."""
        found, factor = dict(tensors), self.embedding / self.residual
        # An embedding that is the output, too, multiplies the logits.
        logits = self.logits * (1.0 if OUTPUT in tensors else factor)
        if EMBEDDING in found:
            found[EMBEDDING] = _multiplied(found[EMBEDDING], factor)
        if _LAST_NORM in found:
            found[_LAST_NORM] = _multiplied(found[_LAST_NORM], 1 / logits)
        return found

    def notes(self, tensors: Mapping[str, SourceTensor]) -> tuple[str, ...]:
        """What the user should know of the embedding."""
        embedding = tensors.get(EMBEDDING)
        if embedding is None or embedding.format.block_size == 1:
            return ()
        return (
            f"the embedding is multiplied by {self.embedding / self.residual:g}: its numbers stay, "
            "and the scales of its blocks are rounded to 16 bits again, by up to 0.05 %",
        )


def _multiplied(tensor: SourceTensor, factor: float) -> SourceTensor:
    if factor == 1:
        return tensor
    if tensor.format.block_size == 1:
        return MultipliedTensor(tensor, factor)
    return ScaledBlocks(tensor, factor)


def _number(keys: ConfigKeys, name: str, default: float) -> float:
    """A multiplier; 0 says that there is none, as in llama.cpp."""
    value = keys.number(name, default) or default
    if not SMALLEST <= value <= LARGEST:
        raise ModelFileError(
            f"metadata {keys.architecture}.{name} is {value:g}; "
            f"it must be from {SMALLEST:g} to {LARGEST:g}"
        )
    return value
