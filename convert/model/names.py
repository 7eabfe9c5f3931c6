"""From a source's tensor names to GGUF's: one table for Hugging Face, one for Meta.

Buffers that no model needs are dropped; any other name is refused. ``layout`` checks shapes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

_HUGGING_FACE = MappingProxyType(
    {
        "embed_tokens": "token_embd",
        "norm": "output_norm",
        "lm_head": "output",
        "input_layernorm": "attn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "self_attn.q_norm": "attn_q_norm",
        "self_attn.k_norm": "attn_k_norm",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
)
_META = MappingProxyType(
    {
        "tok_embeddings": "token_embd",
        "norm": "output_norm",
        "output": "output",
        "attention_norm": "attn_norm",
        "attention.wq": "attn_q",
        "attention.wk": "attn_k",
        "attention.wv": "attn_v",
        "attention.wo": "attn_output",
        "ffn_norm": "ffn_norm",
        "feed_forward.w1": "ffn_gate",
        "feed_forward.w2": "ffn_down",
        "feed_forward.w3": "ffn_up",
    }
)
TABLES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {"hugging_face": _HUGGING_FACE, "meta": _META}
)
WHOLE_MODEL = ("token_embd", "output_norm", "output")
# Angles and masks that older programs saved with the weights.
_BUFFER = re.compile(
    r"(.*\.)?(rotary_emb\.(inv_freq|cos_cached|sin_cached)|rope\.freqs"
    r"|(self_attn|attention)\.(masked_bias|bias|inner_attention\.rope\.freqs))"
)
# What frameworks that wrap a model's modules leave in the names of a saved training.
_INNER_WRAPPER = re.compile(
    r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|base_layer)\."
)
_OUTER_WRAPPER = re.compile(r"(module\.|base_model\.model\.)+")
_NAME = re.compile(r"(?:model\.)?(?:layers\.(0|[1-9][0-9]{0,5})\.)?(.+)\.(weight|bias)")


@dataclass(frozen=True)
class TensorName:
    """A tensor's place in a Llama: ``part`` by GGUF's word, ``layer`` None for the whole model."""

    part: str
    layer: int | None
    kind: str

    @property
    def gguf(self) -> str:
        """The name in a GGUF file."""
        prefix = "" if self.layer is None else f"blk.{self.layer}."
        return f"{prefix}{self.part}.{self.kind}"


def without_inner_wrappers(name: str) -> str:
    """A source's name without what frameworks have put around modules inside the model."""
    return _INNER_WRAPPER.sub("", name)


def is_buffer(name: str) -> bool:
    """Whether a source's tensor is one that no model needs."""
    return _BUFFER.fullmatch(name) is not None


def parse_name(name: str, source_kind: str) -> TensorName | None:
    """The place of a source's tensor; None if no Llama has such a tensor.

    ``source_kind``: "hugging_face" (with or without the leading ``model.``) or "meta". Names of
    wrappers, such as torch.compile's ``_orig_mod.``, say nothing.
    """
    plain = without_inner_wrappers(name)
    outer = _OUTER_WRAPPER.match(plain)
    match = _NAME.fullmatch(plain[outer.end() :] if outer else plain)
    if match is None:
        return None
    layer, module, kind = match.groups()
    part = TABLES[source_kind].get(module)
    if part is None or (part in WHOLE_MODEL) != (layer is None):
        return None
    return TensorName(part, None if layer is None else int(layer), kind)


def source_name(name: str, source_kind: str) -> str:
    """What a source calls the tensor that GGUF calls ``name``."""
    module, kind = name.rsplit(".", 1)
    prefix = ""
    if module.startswith("blk."):
        _, layer, module = module.split(".")
        prefix = f"layers.{layer}."
    own = next(word for word, part in TABLES[source_kind].items() if part == module)
    if source_kind == "hugging_face" and module != "output":
        prefix = f"model.{prefix}"
    return f"{prefix}{own}.{kind}"
