"""GGUF files of other architectures that are Llamas, without quantizing anything anew.

In those of Qwen 2, Phi-3 and EXAONE the rows of queries and keys are in Hugging Face's order, and
Phi-3's matrices lie in one; rows are taken as they are stored. Granite's and MiniCPM's have a
Llama's order, and multipliers, which are ``gguf_multipliers``'.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from edgellama.convert import metadata
from edgellama.convert.metadata import MetadataItem
from edgellama.convert.model.gguf_multipliers import ARCHITECTURES as MULTIPLIED
from edgellama.convert.model.gguf_multipliers import GGUFMultipliers
from edgellama.convert.model.hparams import SCALED_POSITIONS
from edgellama.convert.model.packed_matrices import apart, below_each_other
from edgellama.convert.model.relatives import SOURCE_KEY, renamed_keys
from edgellama.convert.sources.source_tensor import PermutedTensor, SourceTensor
from edgellama.quant.config_keys import ConfigKeys
from edgellama.quant.error_text import shown
from edgellama.quant.errors import ModelFileError, UnsupportedModelError
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
    own, notes = dict(items), tuple[str, ...]()
    try:
        found = _in_order(keys, tensors)
        if keys.architecture in MULTIPLIED:
            multipliers = GGUFMultipliers.of(keys, _head_size(keys))
            own, notes = multipliers.items(keys, items), multipliers.notes(found)
            own[SOURCE_KEY] = metadata.text(keys.architecture)
            found = multipliers.tensors(found)
        if _SHORT in tensors:
            shortened, more = _shortened(keys)
            own, notes = own | shortened, notes + more
            own.pop(f"{keys.architecture}.{_SCALING}", None)
    except (ModelFileError, UnsupportedModelError) as error:
        raise error.within(source) from None
    except (ValueError, IndexError) as error:
        raise ModelFileError(f"{source}: {error}; needed: what its sizes say") from None
    return renamed_keys(own, "llama", of=keys.architecture), found, notes


def _shortened(keys: ConfigKeys) -> tuple[dict[str, MetadataItem], tuple[str, ...]]:
    """The context within the original length: beyond it all positions have the long factors."""
    length = keys.size(_CONTEXT)
    shorter = min(keys.size(_ORIGINAL, length), length)
    notes = shorter_context_notes(shorter) if shorter < length else ()
    return {f"{keys.architecture}.{_CONTEXT}": metadata.unsigned(shorter)}, notes


def shorter_context_notes(length: int, reason: str = SCALED_POSITIONS) -> tuple[str, ...]:
    """What the user should know of a context that is shorter than the model's."""
    return (f"{reason} that GGUF has no keys for: the context is {length} tokens",)


def _in_order(keys: ConfigKeys, tensors: Tensors) -> dict[str, SourceTensor]:
    """The tensors of a Llama. ValueError or IndexError for rows that are no heads."""
    heads = keys.size("attention.head_count")
    shared = keys.size("attention.head_count_kv", heads)
    size, is_half_split = _head_size(keys), keys.architecture not in MULTIPLIED
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
            is_turned = is_half_split and num_heads is not None
            found[part] = PermutedTensor(piece, num_heads or 1, rotated) if is_turned else piece
    return found


def _head_size(keys: ConfigKeys) -> int:
    heads = keys.size("attention.head_count")
    return keys.size("attention.key_length", max(1, keys.size("embedding_length") // heads))
