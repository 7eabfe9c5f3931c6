"""GGUF files of Llama's relatives in their own architectures, as llama.cpp's converter writes them.

Weights and settings are those of ``relatives``; what comes of the files is for the tests to say.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gguf
import numpy as np

from reference.relatives import drawn
from reference.tiny_vocabulary import TinyVocabulary

KINDS = {
    "qwen2": "QWEN2",
    "qwen2-vl": "QWEN2VL",
    "qwen": "QWEN",
    "phi3": "PHI3",
    "phi3-long": "PHI3",
    "phi3-longer": "PHI3",
    "exaone": "EXAONE",
    "seed-oss": "SEED_OSS",
    "pangu": "PANGU_EMBED",
}
PLAIN = {"glm": "CHATGLM", "baichuan": "BAICHUAN"}
MULTIPLIED = {"granite": "GRANITE", "granite-tied": "GRANITE", "minicpm": "MINICPM"}
HALF_SPLIT = {"qwen3": "QWEN3", "qwen3-vl": "QWEN3VL"}
"""Which run as they are, as do those of ``KINDS`` that need no more than another order."""
RUN = {"ministral3": "MISTRAL3", "ministral3-longer": "MISTRAL3", **HALF_SPLIT}
OTHER_NAMES = {
    "num_hidden_layers": "num_layers",
    "rms_norm_eps": "layer_norm_epsilon",
}
FUSED = ("attn_q", "attn_k", "attn_v")


def write_gguf(
    path: Path,
    name: str,
    golden: dict[str, Any],
    *,
    quantized: str | None = None,
    keys: Mapping[str, Any] = MappingProxyType({}),
    architecture: str | None = None,
    fused: bool = False,
    **changes: Any,
) -> Path:
    """The model in its own architecture; ``changes`` of its config, ``keys`` of its metadata.

    ``architecture``: GGUF's name for it. ``fused``: queries, keys and values lie in one matrix, as
    newer converters write them if they are asked to.
    """
    kind = gguf.MODEL_ARCH[architecture or (KINDS | PLAIN | MULTIPLIED | RUN)[name]]
    config = json.loads(str(golden[f"{name}/config"]))
    config = config | config.get("text_config", {}) | changes
    config = {ours: config[own] for ours, own in OTHER_NAMES.items() if own in config} | config
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[kind])
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    size = config.get("head_dim") or config["hidden_size"] // heads
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    if size * heads != config["hidden_size"]:
        writer.add_key_length(size)
        writer.add_value_length(size)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    write_positions(writer, kind, config, size)
    for key, value in ((multipliers(config) if name in MULTIPLIED else {}) | dict(keys)).items():
        add = writer.add_bool if isinstance(value, bool) else writer.add_float32
        add(f"{gguf.MODEL_ARCH_NAMES[kind]}.{key}", value)
    TinyVocabulary(config["vocab_size"]).write(writer, chat_template=None, add_bos=True)
    for extra in config.get("extra", ()):
        writer.add_tensor(extra, np.ones(4, np.float32))
    names = gguf.get_tensor_name_map(kind, config["num_hidden_layers"])
    tensors = {}
    for tensor, values in drawn(name, json.loads(str(golden[f"{name}/shapes"]))).items():
        plain = tensor.replace(".language_model.", ".")
        if ".W_pack." in plain:
            parts = zip(("q_proj", "k_proj", "v_proj"), np.split(values, 3), strict=True)
            own_parts = {plain.replace("W_pack", part): piece for part, piece in parts}
        else:
            own_parts = {plain: values}
        for own_name, piece in own_parts.items():
            own = names.get_name(own_name, try_suffixes=(".weight", ".bias"))
            assert own is not None, own_name
            tensors[own] = piece
    for own, values in tensors.items():
        count = {"attn_q": heads, "attn_k": kv_heads}.get(own.split(".")[-2])
        is_turned = name in MULTIPLIED | RUN and name not in HALF_SPLIT
        if count and (is_turned or name == "baichuan" or architecture == "LLAMA"):
            # As llama.cpp's converter permutes them.
            halves = values.reshape(count, 2, -1, *values.shape[1:])
            tensors[own] = halves.swapaxes(1, 2).reshape(values.shape)
    if fused:
        tensors = in_one(tensors)
    for own, values in tensors.items():
        is_quantized = quantized and values.ndim == 2 and values.shape[1] % 32 == 0
        stored = gguf.GGMLQuantizationType[(is_quantized and quantized) or "F32"]
        data = gguf.quants.quantize(values.astype(np.float32), stored)
        writer.add_tensor(own, data, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_positions(
    writer: gguf.GGUFWriter, kind: gguf.MODEL_ARCH, config: dict[str, Any], size: int
) -> None:
    """The keys of rotary positions, and LongRoPE's tensors, as llama.cpp's converter has them."""
    rope = config.get("rope_parameters") or {}
    writer.add_rope_freq_base(rope.get("rope_theta", 1e4))
    if kind is gguf.MODEL_ARCH.PHI3:
        writer.add_rope_dimension_count(int(size * rope.get("partial_rotary_factor", 1.0)))
        writer.add_sliding_window(config["sliding_window"] or 0)
    if kind is gguf.MODEL_ARCH.CHATGLM:
        writer.add_rope_dimension_count(size // 2)
    if "mrope_section" in rope:
        writer.add_rope_dimension_sections([*rope["mrope_section"], 0])
    if rope.get("rope_type") == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        writer.add_rope_scaling_yarn_log_mul(rope["mscale_all_dim"])
        writer.add_attn_temperature_scale(rope["llama_4_scaling_beta"])
    if "short_factor" in rope:
        original = config["original_max_position_embeddings"]
        writer.add_rope_scaling_orig_ctx_len(original)
        ratio = config["max_position_embeddings"] / original
        writer.add_rope_scaling_attn_factors(float(np.sqrt(1 + np.log(ratio) / np.log(original))))
        for length in ("short", "long"):
            factors = np.array(rope[f"{length}_factor"], np.float32)
            writer.add_tensor(f"rope_factors_{length}.weight", factors)


def in_one(tensors: dict[str, Any]) -> dict[str, Any]:
    """The tensors, queries, keys and values of each layer below each other."""
    found: dict[str, Any] = {}
    for name, values in tensors.items():
        part = next((part for part in FUSED if f".{part}." in name), None)
        whole = name if part is None else name.replace(part, "attn_qkv")
        if part == FUSED[0]:
            parts = [tensors[name.replace(FUSED[0], other)] for other in FUSED]
            found[whole] = np.concatenate(parts)
        elif part is None:
            found[name] = values
    return found


def multipliers(config: dict[str, Any]) -> dict[str, float]:
    """What llama.cpp's converter writes of them."""
    if "scale_emb" in config:
        return {
            "embedding_scale": config["scale_emb"],
            "residual_scale": config["scale_depth"] / config["num_hidden_layers"] ** 0.5,
            "logit_scale": config["hidden_size"] / config["dim_model_base"],
        }
    return {
        "embedding_scale": config["embedding_multiplier"],
        "residual_scale": config["residual_multiplier"],
        "logit_scale": config["logits_scaling"],
        "attention.scale": config["attention_multiplier"],
    }
