"""Matrices that some checkpoints have in one, apart: queries, keys and values, gate and up.

Phi-3 and Granite 4 put one below the other. InternLM 2 puts the queries of each key head before it
and its values, and has Meta's names for the rest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from edgellama.convert.model.derived_tensors import PickedRows
from edgellama.convert.model.hparams import head_size
from edgellama.convert.sources.json_fields import Fields
from edgellama.convert.sources.source_tensor import SourceTensor
from edgellama.quant.error_text import shape_text, shown
from edgellama.quant.errors import ModelFileError

_INTERNLM2 = MappingProxyType(
    {
        "tok_embeddings": "embed_tokens",
        "attention_norm": "input_layernorm",
        "attention.wo": "self_attn.o_proj",
        "attention.wqkv": "self_attn.wqkv",
        "ffn_norm": "post_attention_layernorm",
        "feed_forward.w1": "mlp.gate_proj",
        "feed_forward.w2": "mlp.down_proj",
        "feed_forward.w3": "mlp.up_proj",
    }
)
_NAME = re.compile(r"(.*?)(" + "|".join(map(re.escape, _INTERNLM2)) + r")\.(weight|bias)")
Runs = Mapping[str, list[range]]


@dataclass(frozen=True)
class _Heads:
    """Numbers of heads, and the elements of one."""

    queries: int
    keys: int
    size: int

    @classmethod
    def of(cls, config: Fields) -> _Heads:
        queries = config.size("num_attention_heads")
        keys = config.size("num_key_value_heads", queries)
        size = head_size(config)
        if queries % keys:
            raise config.error("num_key_value_heads", f"a divisor of num_attention_heads {queries}")
        return cls(queries, keys, size)


def phi3_apart(tensors: Mapping[str, SourceTensor], config: Fields) -> dict[str, SourceTensor]:
    """Phi-3's tensors as a Llama's; ModelFileError for a matrix of another number of rows."""
    heads, hidden = _Heads.of(config), config.size("intermediate_size")
    shared = heads.keys * heads.size
    attention = {"q_proj": heads.queries * heads.size, "k_proj": shared, "v_proj": shared}
    parts = {"qkv_proj": attention, "gate_up_proj": {"gate_proj": hidden, "up_proj": hidden}}
    return _all_apart(tensors, config.source, parts)


def granite4_apart(tensors: Mapping[str, SourceTensor], config: Fields) -> dict[str, SourceTensor]:
    """Granite 4's tensors under a Llama's names, gate and up apart, as ``phi3_apart``."""
    hidden = config.size("shared_intermediate_size")
    named = {
        name.replace(".shared_mlp.", ".mlp.").replace(".output_linear.", ".down_proj."): tensor
        for name, tensor in tensors.items()
    }
    parts = {"input_linear": {"gate_proj": hidden, "up_proj": hidden}}
    return _all_apart(named, config.source, parts)


def internlm2_apart(tensors: Mapping[str, SourceTensor], config: Fields) -> dict[str, SourceTensor]:
    """InternLM 2's tensors as a Llama's; ModelFileError for a matrix of another number of rows."""
    heads, found = _Heads.of(config), dict[str, SourceTensor]()
    shared, size = heads.queries // heads.keys, heads.size
    starts = [group * (shared + 2) * size for group in range(heads.keys)]
    runs = {
        "q_proj": [range(start, start + shared * size) for start in starts],
        "k_proj": [range(start + shared * size, start + (shared + 1) * size) for start in starts],
        "v_proj": [
            range(start + (shared + 1) * size, start + (shared + 2) * size) for start in starts
        ],
    }
    for name, tensor in tensors.items():
        match = _NAME.fullmatch(name)
        plain = f"{match[1]}{_INTERNLM2[match[2]]}.{match[3]}" if match else name
        if plain == "output.weight":
            plain = "lm_head.weight"
        stem = plain.removesuffix("wqkv.weight")
        if stem != plain:
            found |= apart(f"{config.source}: ", tensor, stem, runs)
        else:
            found[plain] = tensor.renamed(plain)
    return found


def _all_apart(
    tensors: Mapping[str, SourceTensor], source: str, parts: Mapping[str, Mapping[str, int]]
) -> dict[str, SourceTensor]:
    """The tensors, those apart whose matrices are ``parts``: rows of each, below each other."""
    found: dict[str, SourceTensor] = {}
    for name, tensor in tensors.items():
        module, _, kind = name.rpartition(".")
        stem, _, matrix = module.rpartition(".")
        if matrix in parts and kind == "weight":
            runs = below_each_other(parts[matrix])
            found |= apart(f"{source}: ", tensor, f"{stem}.", runs)
        else:
            found[name] = tensor
    return found


def below_each_other(counts: Mapping[str, int]) -> dict[str, list[range]]:
    """The rows of parts that follow each other, by how many each has."""
    runs, start = {}, 0
    for part, count in counts.items():
        runs[part] = [range(start, start + count)]
        start += count
    return runs


def apart(
    place: str, tensor: SourceTensor, stem: str, runs: Runs, kind: str = "weight"
) -> dict[str, SourceTensor]:
    """The parts of a matrix by their names; ModelFileError, which begins with ``place``."""
    num_rows = sum(len(run) for parts in runs.values() for run in parts)
    if len(tensor.shape) != 2 or tensor.num_rows != num_rows:
        raise ModelFileError(
            f"{place}tensor {shown(tensor.name)} has shape {shape_text(tensor.shape)}; "
            f"needed: {num_rows} rows, of {', '.join(runs)}"
        )
    names = {part: f"{stem}{part}.{kind}" for part in runs}
    return {names[part]: PickedRows(names[part], tensor, runs[part]) for part in runs}
