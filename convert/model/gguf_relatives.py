"""GGUF files of other architectures that are Llamas with rows in another order: qwen2 and phi3.

Rows of queries and keys are in Hugging Face's order there, and Phi-3's matrices lie in one. Rows
are taken as they are stored, so that nothing is quantized anew.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from edgellama.convert import metadata
from edgellama.convert.metadata import MetadataItem
from edgellama.convert.model.hparams import SCALED_POSITIONS
from edgellama.convert.model.packed_matrices import apart, below_each_other
from edgellama.convert.model.relatives import renamed_keys
from edgellama.convert.sources.source_tensor import PermutedTensor, SourceTensor
from edgellama.quant.config_keys import ConfigKeys
from edgellama.quant.error_text import shown
from edgellama.quant.errors import ModelFileError
from edgellama.quant.llama_tensors import ROPE_FREQS
from edgellama.quant.model_config import CONVERTIBLE

Tensors = Mapping[str, SourceTensor]
Items = Mapping[str, MetadataItem]
_LAYER = re.compile(r"(blk\.\d+\.)(attn_q|attn_k|attn_qkv|ffn_up)\.(weight|bias)")
_SHORT, _LONG = "rope_factors_short.weight", "rope_factors_long.weight"
_CONTEXT, _ORIGINAL = "context_length", "rope.scaling.original_context_length"
_SCALING = "rope.scaling.type"


def llama_of_gguf(
    source: str, items: Items, tensors: Tensors
) -> tuple[Items, Tensors, tuple[str, ...]]:
    """The keys and tensors of a Llama; those given, unless the architecture is another.

    With notes of what the user should know of them.
    ModelFileError for sizes that contradict the tensors.
    """
    keys = ConfigKeys(MappingProxyType({key: item.value for key, item in items.items()}))
    if keys.architecture not in CONVERTIBLE:
        return items, tensors, ()
    try:
        found = _in_order(keys, tensors)
    except ModelFileError as error:
        raise error.within(source) from None
    except (ValueError, IndexError) as error:
        raise ModelFileError(f"{source}: {error}; needed: what its sizes say") from None
    own = dict(items)
    notes: tuple[str, ...] = ()
    if _SHORT in tensors:
        # Beyond the original length all positions have the long factors.
        original = keys.integer(_ORIGINAL, keys.integer(_CONTEXT))
        shorter = min(original, keys.integer(_CONTEXT))
        notes = shorter_context_notes(shorter) if shorter < keys.integer(_CONTEXT) else ()
        own[f"{keys.architecture}.{_CONTEXT}"] = metadata.unsigned(shorter)
        own.pop(f"{keys.architecture}.{_SCALING}", None)
    return renamed_keys(own, "llama", of=keys.architecture), found, notes


def shorter_context_notes(length: int, reason: str = SCALED_POSITIONS) -> tuple[str, ...]:
    """What the user should know of a context that is shorter than the model's."""
    return (f"{reason} that GGUF has no keys for: the context is {length} tokens",)


def _in_order(keys: ConfigKeys, tensors: Tensors) -> dict[str, SourceTensor]:
    """The tensors of a Llama. ValueError or IndexError for rows that are no heads."""
    heads = keys.size("attention.head_count")
    shared = keys.size("attention.head_count_kv", heads)
    size = keys.size("attention.key_length", max(1, keys.size("embedding_length") // heads))
    rotated, hidden = keys.size("rope.dimension_count", size), keys.size("feed_forward_length")
    rows = {"attn_q": heads * size, "attn_k": shared * size, "attn_v": shared * size}
    found: dict[str, SourceTensor] = {}
    for name, tensor in tensors.items():
        if "." not in name:
            needed = "names such as blk.0.attn_q.weight"
            raise ModelFileError(f"tensor {shown(name)} is of no Llama; needed: {needed}")
        match = _LAYER.fullmatch(name)
        parts = {name: tensor}
        if match is not None and match[2] == "attn_qkv":
            parts = apart("", tensor, match[1], below_each_other(rows), match[3])
        elif match is not None and match[2] == "ffn_up" and tensor.num_rows == 2 * hidden:
            runs = below_each_other({"ffn_gate": hidden, "ffn_up": hidden})
            parts = apart("", tensor, match[1], runs, match[3])
        elif name in (_SHORT, _LONG):
            parts = {ROPE_FREQS: tensor.renamed(ROPE_FREQS)} if name == _SHORT else {}
        for part, piece in parts.items():
            num_heads = {"attn_q": heads, "attn_k": shared}.get(part.split(".")[-2])
            found[part] = piece if num_heads is None else PermutedTensor(piece, num_heads, rotated)
    return found
