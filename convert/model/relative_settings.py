"""Settings of other architectures as a Llama's: positions, and sizes under other names.

Each function takes a configuration and returns the fields that differ from a Llama's, or refuses
what no Llama can do. ``multipliers`` has multipliers, ``relative_windows`` windows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

from edgellama.convert.model.hparams import (
    ROTATED,
    SCALED_FROM,
    head_size,
)
from edgellama.convert.model.multipliers import multiplied_settings
from edgellama.convert.model.relative import Settings
from edgellama.convert.model.relative_windows import SLIDING, WHOLE
from edgellama.convert.model.rope_scaling import rope_fields
from edgellama.convert.sources.json_fields import Fields
from edgellama.quant.config_keys import USUAL_ARCHITECTURE
from edgellama.quant.error_text import shown
from edgellama.quant.errors import UnsupportedModelError

_NONE: Settings = MappingProxyType({})
_TELECHAT = MappingProxyType(
    {
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "intermediate_size": "ffn_hidden_size",
        "rms_norm_eps": "layer_norm_epsilon",
        "max_position_embeddings": "seq_length",
    }
)
_QWEN = MappingProxyType(
    {
        "rms_norm_eps": "layer_norm_epsilon",
        "head_dim": "kv_channels",
        "rope_theta": "rotary_emb_base",
    }
)
_EXAONE = MappingProxyType(
    {
        "num_hidden_layers": "num_layers",
        "rms_norm_eps": "layer_norm_epsilon",
        "hidden_act": "activation_function",
    }
)
_CHATGLM = MappingProxyType(
    {
        "num_hidden_layers": "num_layers",
        "num_key_value_heads": "multi_query_group_num",
        "intermediate_size": "ffn_hidden_size",
        "head_dim": "kv_channels",
        "rms_norm_eps": "layernorm_epsilon",
        "max_position_embeddings": "seq_length",
        "vocab_size": "padded_vocab_size",
    }
)
_LIKE_GLM = ("rmsnorm", "post_layer_norm", "multi_query_attention")
"""What ChatGLM 2 has, and the first one has not."""
BAICHUAN_13B = 5120
"""The width of the Baichuan models that have slopes instead of rotary positions."""
NO_BAICHUAN = (
    "Baichuan 13B tells positions by slopes (ALiBi), which cannot be converted; supported: "
    "Baichuan 7B and Baichuan 2 7B"
)
_TELECHAT_LENGTH = 8192
_TELECHAT_LENGTHS = MappingProxyType({4096: 4096})
"""Tokens from which TeleChat stretches its positions, by width: where config.json is silent, it is
a number in the code of TeleChat 7B and 12B, and not the same one."""
_NO_TELECHAT = ("use_mup", "embed_layernorm", "apply_residual_connection_post_layernorm")


def rotated_in_part(config: Fields) -> Settings:
    """Phi-4-mini and GLM rotate the first elements of a head alone."""
    name = "partial_rotary_factor"
    whole = next((f for f in ("rope_parameters", "rope_scaling") if config.fields(f)), "")
    rope = config.fields(whole)
    fields = rope if rope.has(name) else config
    size = head_size(config)
    rotated = int(size * fields.positive(name, 1.0))
    if not 2 <= rotated <= size or rotated % 2:
        raise fields.error(name, f"what leaves an even number of {size} elements of a head")
    settings: dict[str, object] = {name: None, ROTATED: rotated}
    return settings | ({whole: {**rope.values, name: 1.0}} if whole else {})


def chatglm_settings(config: Fields) -> Settings:
    """ChatGLM 2 and 3 and GLM-4 have other names for sizes, and rotate half of each head."""
    for name in _LIKE_GLM:
        if not config.flag(name, False):
            raise UnsupportedModelError(
                f"{config.source}: the first ChatGLM has LayerNorm and two positions a token, "
                "which cannot be converted; supported: ChatGLM 2 and 3, GLM-4 9B"
            )
    if config.flag("apply_residual_connection_post_layernorm", False):
        raise config.error("apply_residual_connection_post_layernorm", "false")
    ratio = config.positive("rope_ratio", 1.0)
    if ratio != 1 and "chatglm2" in (config.text("_name_or_path") or ""):
        raise config.error("rope_ratio", "1 for a ChatGLM 2, which scales positions by it")
    size = config.size("kv_channels")
    if size % 4:
        raise config.error("kv_channels", "a multiple of 4")
    base = {"rope_theta": 10000.0 * ratio}
    return {**_by_their_names(config, _CHATGLM), **base, ROTATED: size // 2}


def granite4_settings(config: Fields) -> Settings:
    """Granite 4 without experts and Mamba layers is Granite 3 under other names."""
    kinds, attention = config.items("layer_types"), ("attention", WHOLE)
    others = [kind for kind in kinds if kind not in attention]
    experts = config.values.get("num_local_experts", 8)
    if not kinds or others or experts or config.text("position_embedding_type") != "rope":
        what = f"{shown(experts)} experts" if experts else f"layers of {shown(others or kinds)}"
        raise UnsupportedModelError(
            f"{config.source}: {what} cannot be converted; supported: Granite 4 without experts, "
            "all layers of which are attention with rotary positions"
        )
    sizes = {"intermediate_size": config.size("shared_intermediate_size")}
    return {**multiplied_settings(config), **sizes, "num_local_experts": None}


def exaone_settings(config: Fields) -> Settings:
    """EXAONE 3 has other names for sizes, as GPT-2."""
    return _by_their_names(config, _EXAONE)


def qwen_settings(config: Fields) -> Settings:
    """The first Qwen's sizes have other names; beyond ``seq_length`` it scales positions.

    The length of the feed-forward counts gate and up together.
    """
    if config.number("rotary_pct") != 1:
        raise config.error("rotary_pct", "1")
    hidden = config.size("intermediate_size")
    if hidden % 2:
        raise config.error("intermediate_size", "an even number")
    is_scaled = config.flag("use_dynamic_ntk", True) or config.flag("use_logn_attn", True)
    return {
        **_by_their_names(config, _QWEN),
        "intermediate_size": hidden // 2,
        **({SCALED_FROM: config.size("seq_length")} if is_scaled else {}),
    }


def internlm_settings(config: Fields) -> Settings:
    """InternLM 1 tells of its positions in an object of its own."""
    rotary = config.fields("rotary")
    kind = rotary.text("type") or "origin"
    if kind not in ("origin", "dynamic"):
        raise rotary.error("type", "origin, dynamic")
    scaling = {"rope_type": kind, "factor": rotary.positive("scaling_factor", 1.0)}
    return {
        "rope_theta": rotary.positive("base", config.positive("rope_theta", 10000.0)),
        "rope_scaling": scaling if kind == "dynamic" else None,
    }


def telechat_settings(config: Fields) -> Settings:
    """TeleChat's sizes have other names; its base is stretched to the length of the training.

    Texts that are longer than that have other positions. The published code of the 7B and the 12B
    does not read ``logn``.
    """
    for name in _NO_TELECHAT:
        if config.flag(name, False):
            raise config.error(name, "false")
    settings = dict(_by_their_names(config, _TELECHAT))
    if not config.has("training_seqlen"):
        return settings
    trained = config.size("training_seqlen")
    width = config.size("hidden_size")
    usual = _TELECHAT_LENGTHS.get(width, _TELECHAT_LENGTH)
    stretched = config.size("base_seqlen", usual)
    size = head_size(Fields({**config.values, **settings}, config.source, config.prefix))
    alpha = max(2 ** math.ceil(math.log(trained / stretched, 2) + 1) - 1, 1)
    if alpha > 1 and size <= 2:
        raise config.error("hidden_size", "heads of more than 2 elements")
    base = config.positive("rope_theta", 10000.0) * alpha ** (size / max(1, size - 2))
    return settings | {"rope_theta": base, SCALED_FROM: trained}


def _by_their_names(config: Fields, names: Mapping[str, str]) -> Settings:
    """A Llama's fields, from those that an architecture calls otherwise."""
    return {ours: config.values[own] for ours, own in names.items() if config.has(own)}


def baichuan_settings(config: Fields) -> Settings:
    """The 13B models have no rotation; their configuration says it by its sizes alone."""
    if not config.has("max_position_embeddings") or config.size("hidden_size") == BAICHUAN_13B:
        raise UnsupportedModelError(f"{config.source}: {NO_BAICHUAN}")
    return _NONE


def mobilellm_settings(config: Fields) -> Settings:
    """MobileLLM has its own name for a tied output, and may run each layer twice."""
    layers = config.size("num_hidden_layers") * (2 if runs_layers_twice(config) else 1)
    is_tied = config.flag("share_embedding", True) or config.flag("tie_word_embeddings", False)
    return {
        "num_hidden_layers": layers,
        "tie_word_embeddings": is_tied,
    }


def runs_layers_twice(config: Fields) -> bool:
    """Whether MobileLLM's configuration says so."""
    return config.flag("layer_sharing", False)


def has_unit_output(config: Fields) -> bool:
    """Whether the rows of Index's output are divided by their lengths, which must be said."""
    value = config.values.get("norm_head")
    if not isinstance(value, int) or value not in (0, 1):
        raise config.error("norm_head", "true or false, 1 or 0")
    return bool(value)


def without_clipping(config: Fields) -> Settings:
    """IQuest-Coder can clip queries, keys and values, and does not in what is published."""
    for name in ("clip_qkv", "sliding_window"):
        if config.has(name):
            raise config.error(name, "null")
    return _NONE


def pangu_settings(config: Fields) -> Settings:
    """openPangu R has the name of Embedded, and rotates a part of each head beside keys of its own.

    It says the part in words of its own, and windows by the layers that have them.
    """
    if config.has("rotary_percent") and config.number("rotary_percent") != 1:
        raise config.error("rotary_percent", "1")
    if config.values.get("param_sink_number") not in (None, 0):
        raise config.error("param_sink_number", "0")
    if SLIDING in config.items("layer_types"):
        raise UnsupportedModelError(
            f"{config.source}: openPangu with windows (layer_types has {SLIDING}) cannot be "
            "converted; supported: openPangu Embedded"
        )
    return _NONE


def ministral3(config: Fields) -> str:
    """GGUF's own name for Ministral 3, by which readers know that queries grow with positions."""
    is_growing = rope_fields(config).has("llama_4_scaling_beta")
    return "mistral3" if is_growing else USUAL_ARCHITECTURE
