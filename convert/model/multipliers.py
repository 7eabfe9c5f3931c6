"""Turns multipliers of Granite, MiniCPM and others (of embeddings, residuals ...) into weights.

A Llama's stream of residuals may have any scale, since each use begins with a norm. It becomes the
model's divided by the embedding's multiplier, so that an embedding that is the output too stays one
matrix. The multiplier of residuals is divided between both matrices on the way, so that neither
becomes small.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

from edgellama.convert.model.derived_tensors import MultipliedTensor
from edgellama.convert.model.hparams import head_size
from edgellama.convert.sources.json_fields import Fields
from edgellama.convert.sources.source_tensor import SourceTensor
from edgellama.quant.errors import UnsupportedModelError

_EPSILON = 1e-6
SMALLEST, LARGEST = 1e-6, 1e6
EMBEDDING, ATTENTION = "embedding_multiplier", "attention_multiplier"
RESIDUAL, LOGITS = "residual_multiplier", "logits_scaling"
_ONE: Mapping[str, object] = MappingProxyType({EMBEDDING: 1.0, RESIDUAL: 1.0, LOGITS: 1.0})


def multiplier(config: Fields, name: str) -> float:
    """A number by which nothing overflows, 1 by default; ModelFileError for any other."""
    value = config.positive(name, 1.0)
    if not SMALLEST <= value <= LARGEST:
        raise config.error(name, f"a number from {SMALLEST:g} to {LARGEST:g}")
    return value


def multiplied_settings(config: Fields) -> dict[str, object]:
    """What changes in config.json: the epsilon of norms, which is of the stream's scale squared."""
    embedding = multiplier(config, EMBEDDING)
    return {"rms_norm_eps": config.positive("rms_norm_eps", _EPSILON) / embedding**2}


def multiplied(tensors: Mapping[str, SourceTensor], config: Fields) -> dict[str, SourceTensor]:
    """Granite's tensors as a Llama's, by the same names."""
    added = multiplier(config, RESIDUAL) / multiplier(config, EMBEDDING)
    query = multiplier(config, ATTENTION) * math.sqrt(head_size(config))
    logits = 1 / multiplier(config, LOGITS)
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
    width, layers = config.size("hidden_size"), config.size("num_hidden_layers")
    return _with(
        config,
        {
            EMBEDDING: multiplier(config, "scale_emb"),
            RESIDUAL: multiplier(config, "scale_depth") / math.sqrt(layers),
            LOGITS: width / config.size("dim_model_base", 1),
        },
    )


def hyperclovax_multipliers(config: Fields) -> Fields:
    """HyperCLOVA X's, whose logits are multiplied where Granite's are divided.

    UnsupportedModelError for norms behind attention and feed-forward.
    """
    if config.flag("use_post_norm", True):
        raise UnsupportedModelError(
            f"{config.source}: norms behind attention and feed-forward (use_post_norm) cannot be "
            "converted; supported: HyperCLOVA X without them, and as a LlamaForCausalLM"
        )
    given = {name: multiplier(config, name) for name in (EMBEDDING, RESIDUAL)}
    found = _with(config, {**given, LOGITS: 1 / multiplier(config, LOGITS)})
    if config.has(ATTENTION):
        return _with(found, {ATTENTION: config.values[ATTENTION]})
    return found


def teleflm_multipliers(config: Fields) -> Fields:
    """Tele-FLM's, which may be off."""
    if not config.flag("use_mup", False):
        return _with(config, _ONE)
    logits = multiplier(config, "mup_scale_factor") / multiplier(config, "output_mult")
    return _with(config, {**_ONE, EMBEDDING: multiplier(config, "input_mult"), LOGITS: logits})


def _with(config: Fields, multipliers: Mapping[str, object]) -> Fields:
    """The configuration with multipliers, attention's usual one among them."""
    usual = {ATTENTION: 1 / math.sqrt(head_size(config))}
    return Fields({**config.values, **usual, **multipliers}, config.source, config.prefix)
