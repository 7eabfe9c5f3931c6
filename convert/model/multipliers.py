"""Multipliers of Granite and MiniCPM, for embeddings, residuals and more, as weights of a Llama.

A Llama's stream of residuals may have any scale, since each use begins with a norm: it is Granite's
over the embedding's multiplier, so that an embedding that is the output too stays one. What
residuals are multiplied with is shared by both matrices on the way, so that neither becomes small.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from edgellama.convert.model.derived_tensors import MultipliedTensor
from edgellama.convert.model.hparams import head_size
from edgellama.convert.sources.json_fields import Fields
from edgellama.convert.sources.source_tensor import SourceTensor

_EPSILON = 1e-6


def multiplied_settings(config: Fields) -> dict[str, object]:
    """What changes in config.json: the epsilon of norms, which is of the stream's scale squared."""
    embedding = config.positive("embedding_multiplier", 1.0)
    return {"rms_norm_eps": config.positive("rms_norm_eps", _EPSILON) / embedding**2}


def multiplied(tensors: Mapping[str, SourceTensor], config: Fields) -> dict[str, SourceTensor]:
    """Granite's tensors as a Llama's, by the same names."""
    residual = config.positive("residual_multiplier", 1.0)
    added = residual / config.positive("embedding_multiplier", 1.0)
    query = config.positive("attention_multiplier", 1.0) * math.sqrt(head_size(config))
    logits = 1 / config.positive("logits_scaling", 1.0)
    half = math.sqrt(added)
    factors = {
        **dict.fromkeys(("self_attn.q_proj.weight", "self_attn.q_proj.bias"), query),
        **dict.fromkeys(("self_attn.v_proj.weight", "self_attn.v_proj.bias"), half),
        **dict.fromkeys(("mlp.up_proj.weight", "mlp.up_proj.bias"), half),
        **dict.fromkeys(("self_attn.o_proj.weight", "mlp.down_proj.weight"), half),
        **dict.fromkeys(("self_attn.o_proj.bias", "mlp.down_proj.bias"), added),
        "norm.weight": logits,
    }
    return {
        name: _times(tensor, factors.get(_place(name), 1.0)) for name, tensor in tensors.items()
    }


def _place(name: str) -> str:
    """The last words of a name: those within a layer, or within the model."""
    layer, words = ".layers." in f".{name}", name.split(".")
    return ".".join(words[-3:] if layer else words[-2:])


def _times(tensor: SourceTensor, factor: float) -> SourceTensor:
    return tensor if factor == 1 else MultipliedTensor(tensor, factor)


def minicpm_multipliers(config: Fields) -> Fields:
    """MiniCPM's configuration with its multipliers under Granite's names."""
    width, heads = config.size("hidden_size"), config.size("num_attention_heads")
    layers, size = config.size("num_hidden_layers"), max(1, width // heads)
    multipliers = {
        "embedding_multiplier": config.positive("scale_emb", 1.0),
        "residual_multiplier": config.positive("scale_depth", 1.0) / math.sqrt(layers),
        "logits_scaling": width / config.size("dim_model_base", 1),
        "attention_multiplier": 1 / math.sqrt(size),
    }
    return Fields({**config.values, **multipliers}, config.source, config.prefix)
