"""Renames tensors of other architectures to a Llama's, and copies layers that run twice.

Each architecture has a table of names. ``packed_matrices`` handles joined matrices.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from edgellama.convert.sources.source_tensor import SourceTensor
from edgellama.quant.error_text import shown
from edgellama.quant.errors import ModelFileError

Words = Mapping[str, str]
_LAYER = re.compile(r"(.*\blayers\.)(0|[1-9][0-9]{0,5})(\..+)")
_GPT2 = {".transformer.h.": ".model.layers.", ".transformer.": ".model.", ".ln_f.": ".norm."}
INTERNLM2: Words = MappingProxyType(
    {
        ".tok_embeddings.": ".embed_tokens.",
        ".attention_norm.": ".input_layernorm.",
        ".attention.wo.": ".self_attn.o_proj.",
        ".attention.wqkv.": ".self_attn.wqkv.",
        ".ffn_norm.": ".post_attention_layernorm.",
        ".feed_forward.w1.": ".mlp.gate_proj.",
        ".feed_forward.w2.": ".mlp.down_proj.",
        ".feed_forward.w3.": ".mlp.up_proj.",
        ".output.": ".lm_head.",
    }
)
EXAONE: Words = MappingProxyType(
    {
        **_GPT2,
        ".wte.": ".embed_tokens.",
        ".ln_1.": ".input_layernorm.",
        ".attn.attention.out_proj.": ".self_attn.o_proj.",
        ".attn.attention.": ".self_attn.",
        ".ln_2.": ".post_attention_layernorm.",
        ".mlp.c_fc_0.": ".mlp.gate_proj.",
        ".mlp.c_fc_1.": ".mlp.up_proj.",
        ".mlp.c_proj.": ".mlp.down_proj.",
    }
)
QWEN: Words = MappingProxyType(
    {
        **_GPT2,
        ".wte.": ".embed_tokens.",
        ".ln_1.": ".input_layernorm.",
        ".attn.c_proj.": ".self_attn.o_proj.",
        ".attn.": ".self_attn.",
        ".ln_2.": ".post_attention_layernorm.",
        ".mlp.w1.": ".mlp.up_proj.",
        ".mlp.w2.": ".mlp.gate_proj.",
        ".mlp.c_proj.": ".mlp.down_proj.",
    }
)
TELECHAT: Words = MappingProxyType(
    {
        **_GPT2,
        ".word_embeddings.": ".embed_tokens.",
        ".self_attention.query.": ".self_attn.q_proj.",
        ".self_attention.dense.": ".self_attn.o_proj.",
        ".self_attention.": ".self_attn.",
    }
)
CHATGLM: Words = MappingProxyType(
    {
        ".transformer.embedding.word_embeddings.": ".model.embed_tokens.",
        ".transformer.encoder.layers.": ".model.layers.",
        ".transformer.encoder.final_layernorm.": ".model.norm.",
        ".transformer.output_layer.": ".lm_head.",
        ".transformer.rotary_pos_emb.": ".model.rotary_emb.",
        ".self_attention.dense.": ".self_attn.o_proj.",
        ".self_attention.": ".self_attn.",
        ".mlp.dense_4h_to_h.": ".mlp.down_proj.",
    }
)
KORMO: Words = MappingProxyType(
    {
        ".pre_attention_layernorm.": ".input_layernorm.",
        ".pre_mlp_layernorm.": ".post_attention_layernorm.",
    }
)


def renamed(
    tensors: Mapping[str, SourceTensor], words: Words, source: str
) -> dict[str, SourceTensor]:
    """The tensors by a Llama's names; ModelFileError for two of one name.

    ``source``: the file that errors name.
    """
    found: dict[str, SourceTensor] = {}
    for name, tensor in tensors.items():
        plain = f".{name}"
        for own, llamas in words.items():
            plain = plain.replace(own, llamas)
        plain = plain[1:]
        if plain in found:
            raise ModelFileError(
                f"{source}: tensors {shown(found[plain].name)} and {shown(name)} are both "
                f"{shown(plain)}; needed: one"
            )
        found[plain] = tensor
    return found


def each_layer_twice(tensors: Mapping[str, SourceTensor]) -> dict[str, SourceTensor]:
    """The tensors of a model with twice the layers: each one is there a second time behind it."""
    found: dict[str, SourceTensor] = {}
    for name, tensor in tensors.items():
        match = _LAYER.fullmatch(name)
        if match is None:
            found[name] = tensor
        else:
            first = 2 * int(match[2])
            found |= {f"{match[1]}{n}{match[3]}": tensor for n in (first, first + 1)}
    return found
