"""GGUF files of other architectures that are Llamas, converted without quantizing anything anew.

Some have the rows of queries and keys in Hugging Face's order, and some have joined matrices; rows
are taken as they are stored. ``gguf_multipliers`` handles Granite's and MiniCPM's multipliers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from edgellama.convert import metadata
from edgellama.convert.metadata import MetadataItem
from edgellama.convert.model.gguf_multipliers import ARCHITECTURES as MULTIPLIED
from edgellama.convert.model.gguf_multipliers import GGUFMultipliers
from edgellama.convert.model.hparams import SCALED_POSITIONS
from edgellama.convert.model.packed_matrices import apart, below_each_other
from edgellama.convert.model.relative_settings import BAICHUAN_13B, NO_BAICHUAN
from edgellama.convert.model.relatives import SOURCE_KEY, renamed_keys
from edgellama.convert.sources.source_tensor import PermutedTensor, SourceTensor
from edgellama.quant.config_keys import ConfigKeys
from edgellama.quant.error_text import shown
from edgellama.quant.errors import ModelFileError, UnsupportedModelError
from edgellama.quant.llama_tensors import PACKED_ATTENTION
from edgellama.quant.model_config import EMBEDDING
from edgellama.quant.rope_config import SHORT_FACTORS

Tensors = Mapping[str, SourceTensor]
Items = Mapping[str, MetadataItem]
_LAYER = re.compile(r"(blk\.\d+\.)([^.]+)\.(weight|bias)")
_SCALING, _HIDDEN = "rope.scaling.type", "feed_forward_length"
BAICHUAN_2_TOKENS = 125696
"""By its vocabulary alone a file tells which Baichuan it is."""


@dataclass(frozen=True)
class Kind:
    """How the file of an architecture differs from a Llama's.

    ``is_half_split``: rows of queries and keys are in Hugging Face's order. ``parts``: tensors of a
    layer that a Llama's file calls otherwise. ``hidden_parts``: the matrices whose rows the length
    of the feed-forward counts together. ``silent``: keys that say nothing of texts.
    """

    is_half_split: bool = True
    parts: Mapping[str, str] = field(default_factory=dict)
    hidden_parts: int = 1
    silent: tuple[str, ...] = ()


_PLAIN = Kind(is_half_split=False)
KNOWN: Mapping[str, Kind] = MappingProxyType(
    {
        "qwen2": Kind(),
        "qwen2vl": Kind(silent=("rope.dimension_sections",)),
        "qwen": Kind(hidden_parts=2),
        "phi3": Kind(),
        "exaone": Kind(),
        "seed_oss": Kind(parts={"post_attention_norm": "ffn_norm"}),
        "pangu-embedded": Kind(),
        "chatglm": _PLAIN,
        "baichuan": _PLAIN,
        "granite": _PLAIN,
        "minicpm": _PLAIN,
    }
)
"""By GGUF's names, those of ``CONVERTIBLE``."""


def llama_of_gguf(
    source: str, items: Items, tensors: Tensors
) -> tuple[Items, Tensors, tuple[str, ...]]:
    """The keys and tensors of a Llama; those given, unless the architecture is another.

    With notes of what the user should know of them.
    ModelFileError for sizes that contradict the tensors, UnsupportedModelError for what is no
    Llama.
    """
    keys = ConfigKeys(MappingProxyType({key: item.value for key, item in items.items()}))
    kind = KNOWN.get(keys.architecture)
    if kind is None and not any(f".{PACKED_ATTENTION}." in name for name in tensors):
        return items, tensors, ()
    own, notes = dict(items), tuple[str, ...]()
    try:
        found = _in_order(keys, kind or _PLAIN, tensors)
        if keys.architecture in MULTIPLIED:
            multipliers = GGUFMultipliers.of(keys, _head_size(keys))
            own, notes = multipliers.items(keys, items), multipliers.notes(found)
            own[SOURCE_KEY] = metadata.text(keys.architecture)
            found = multipliers.tensors(found)
        if keys.architecture == "baichuan":
            notes = _baichuan_notes(keys, found)
        if SHORT_FACTORS in tensors:
            # Phi-3's files have LongRoPE's tensors and lengths, and do not call it so.
            own[f"{keys.architecture}.{_SCALING}"] = metadata.text("longrope")
    except (ModelFileError, UnsupportedModelError) as error:
        raise error.within(source) from None
    except (ValueError, IndexError) as error:
        raise ModelFileError(f"{source}: {error}; needed: what its sizes say") from None
    if kind is None:
        return own, found, notes
    for name in kind.silent:
        own.pop(f"{keys.architecture}.{name}", None)
    if kind.hidden_parts > 1:
        own[f"{keys.architecture}.{_HIDDEN}"] = metadata.unsigned(_hidden(keys, kind))
    return renamed_keys(own, "llama", of=keys.architecture), found, notes


def _baichuan_notes(keys: ConfigKeys, tensors: Tensors) -> tuple[str, ...]:
    """What the user should know of a Baichuan 7B; UnsupportedModelError for a 13B."""
    if keys.size("embedding_length") == BAICHUAN_13B:
        raise UnsupportedModelError(NO_BAICHUAN)
    if EMBEDDING not in tensors or tensors[EMBEDDING].num_rows != BAICHUAN_2_TOKENS:
        return ()
    return (
        "Baichuan 2 divides the rows of its output by their lengths, and the file does not say "
        "whether its writer did: if answers are poor, convert the checkpoint",
    )


def shorter_context_notes(length: int, reason: str = SCALED_POSITIONS) -> tuple[str, ...]:
    """What the user should know of a context that is shorter than the model's."""
    return (f"{reason} that GGUF has no keys for: the context is {length} tokens",)


def _in_order(keys: ConfigKeys, kind: Kind, tensors: Tensors) -> dict[str, SourceTensor]:
    """The tensors of a Llama. ValueError or IndexError for rows that are no heads."""
    heads = keys.size("attention.head_count")
    shared = keys.size("attention.head_count_kv", heads)
    size, hidden = _head_size(keys), _hidden(keys, kind)
    rotated = keys.size("rope.dimension_count", size)
    rows = {"attn_q": heads * size, "attn_k": shared * size, "attn_v": shared * size}
    found: dict[str, SourceTensor] = {}
    for name, tensor in tensors.items():
        if "." not in name:
            needed = "names such as blk.0.attn_q.weight"
            raise ModelFileError(f"tensor {shown(name)} is of no Llama; needed: {needed}")
        match = _LAYER.fullmatch(name)
        parts = {name: tensor}
        if match is not None and match[2] == PACKED_ATTENTION:
            parts = apart("", tensor, match[1], below_each_other(rows), match[3])
        elif match is not None and match[2] == "ffn_up" and tensor.shape[0] == 2 * hidden:
            runs = below_each_other({"ffn_gate": hidden, "ffn_up": hidden})
            parts = apart("", tensor, match[1], runs, match[3])
        elif match is not None and match[2] in kind.parts:
            named = f"{match[1]}{kind.parts[match[2]]}.{match[3]}"
            parts = {named: tensor.renamed(named)}
        for part, piece in parts.items():
            num_heads = {"attn_q": heads, "attn_k": shared}.get(part.split(".")[-2])
            is_turned = kind.is_half_split and num_heads is not None
            found[part] = PermutedTensor(piece, num_heads or 1, rotated) if is_turned else piece
    return found


def _hidden(keys: ConfigKeys, kind: Kind) -> int:
    return max(1, keys.size(_HIDDEN) // kind.hidden_parts)


def _head_size(keys: ConfigKeys) -> int:
    heads = keys.size("attention.head_count")
    return keys.size("attention.key_length", max(1, keys.size("embedding_length") // heads))
