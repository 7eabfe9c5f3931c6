"""Tiny checkpoints of architectures that are Llamas written otherwise, under their own names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from reference.family_member import Array, llama_2_tokenizer, write_safetensors
from reference.family_tokenizers import NUM_PIECES, write_json

SIZES: dict[str, Any] = {
    "vocab_size": NUM_PIECES,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
GRANITE = {
    "embedding_multiplier": 12.0,
    "attention_multiplier": 0.0156,
    "residual_multiplier": 0.22,
    "logits_scaling": 8.0,
}
MINICPM = {"scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 8}
PHI3_LONG: tuple[str, dict[str, Any]] = (
    "Phi3",
    {
        "original_max_position_embeddings": 64,
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 1e4,
            "partial_rotary_factor": 0.75,
            "short_factor": [1.0, 1.25, 2.5],
            "long_factor": [4.0, 5.0, 6.0],
        },
    },
)
MINISTRAL3: tuple[str, dict[str, Any]] = (
    "Ministral3",
    {
        "head_dim": 12,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1e6,
            "factor": 4.0,
            "original_max_position_embeddings": 64,
            "llama_4_scaling_beta": 0.1,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
        },
    },
)
RELATIVES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2": ("Qwen2", {}),
    "seed-oss": ("SeedOss", {"head_dim": 12}),
    "ernie": ("Ernie4_5", {"use_bias": True, "head_dim": 8, "tie_word_embeddings": False}),
    "helium": ("Helium", {"head_dim": 8}),
    "phi3": ("Phi3", {"sliding_window": 8}),
    "phi3-long": PHI3_LONG,
    "ministral3": MINISTRAL3,
    "granite": ("Granite", {**GRANITE, "attention_bias": True, "mlp_bias": True}),
    "granite-tied": ("Granite", {**GRANITE, "tie_word_embeddings": True}),
    "smollm3": ("SmolLM3", {"num_hidden_layers": 5}),
    "smollm3-all": ("SmolLM3", {"no_rope_layers": [1, 1], "tie_word_embeddings": False}),
    "granite4": (
        "GraniteMoeHybrid",
        {
            **GRANITE,
            "num_local_experts": 0,
            "shared_intermediate_size": 48,
            "mamba_n_heads": 4,
            "layer_types": ["full_attention"] * 2,
            "position_embedding_type": "rope",
        },
    ),
    "minicpm": ("MiniCPM", {"tie_word_embeddings": True, **MINICPM}),
    "internlm3": ("InternLM3", {"head_dim": 12}),
    "internlm2": ("InternLM2", {}),
    "glm": ("Glm", {"head_dim": 8}),
    "hyperclovax": (
        "HyperCLOVAX",
        {**GRANITE, "logits_scaling": 0.125, "attention_multiplier": None, "use_post_norm": False},
    ),
    "cwm": ("Cwm", {"head_dim": 8, "sliding_window": 32, "num_hidden_layers": 5}),
    "ministral": ("Ministral", {"head_dim": 12, "sliding_window": 8}),
    "qwen2-windows": (
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 32, "max_window_layers": 1},
    ),
    "mimo": ("MiMo", {"num_nextn_predict_layers": 1}),
    "exaone": ("Exaone", {"tie_word_embeddings": True}),
    "kormo": ("KORMo", {}),
    "baichuan": ("BaiChuan", {"num_key_value_heads": 4}),
    "baichuan2": ("Baichuan", {"num_key_value_heads": 4}),
    "telechat": ("TeleChat2", {"training_seqlen": 200, "base_seqlen": 64}),
    "internlm": ("InternLM", {"attention_bias": True, "rotary": {"type": "dynamic", "base": 2e4}}),
    "teleflm": (
        "TeleFLM",
        {"use_mup": True, "input_mult": 12.0, "output_mult": 1.5, "mup_scale_factor": 6.0},
    ),
    "xverse": ("Xverse", {}),
    "index": ("Index", {"norm_head": 1}),
    "mobilellm": (
        "MobileLLM",
        {"num_hidden_layers": 2, "share_embedding": True, "layer_sharing": True},
    ),
    "qwen": (
        "QWenLMHead",
        {
            "num_key_value_heads": 4,
            "intermediate_size": 96,
            "seq_length": 128,
            "kv_channels": 8,
            "no_bias": True,
            "use_dynamic_ntk": True,
            "use_logn_attn": True,
        },
    ),
    "iquest-coder": ("IQuestCoder", {"head_dim": 12, "rms_norm_eps": 1e-5}),
    "pangu": ("PanguEmbedded", {"bias": True}),
    "aquila": ("Aquila", {"num_key_value_heads": 4}),
    "skywork": ("Skywork", {"num_key_value_heads": 4, "rope_theta": 2e4}),
    "telechat3": (
        "TeleChat3",
        {
            "rms_norm_eps": 1e-5,
            "rope_theta": 1e6,
            "rope_scaling": {
                "rope_type": "telechat3-yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
    ),
    "chatglm": (
        "ChatGLM",
        {
            "rope_ratio": 50,
            "rmsnorm": True,
            "post_layer_norm": True,
            "multi_query_attention": True,
            "original_rope": True,
            "add_qkv_bias": True,
        },
    ),
    "qwen3": ("Qwen3", {"head_dim": 12, "tie_word_embeddings": True}),
    "phi3-longer": PHI3_LONG,
    "ministral3-longer": MINISTRAL3,
}
"""The beginning of the class in transformers, or in the checkpoint's own code, and settings."""

NUM_TOKENS = {"phi3-longer": 100, "ministral3-longer": 150}
"""Of texts that are longer than others."""

WITH_VISION = {"qwen2-vl": "Qwen2VL", "qwen2.5-vl": "Qwen2_5_VL", "qwen3-vl": "Qwen3VL"}
"""The beginning of the class in transformers, of models with vision without its tensors."""


def drawn(name: str, shapes: dict[str, list[int]]) -> dict[str, Array]:
    """float16 weights; activations stay near one."""
    rng = np.random.default_rng(sum(name.encode()))
    weights = {}
    for tensor, shape in shapes.items():
        gain = 1.0 if "layers" in tensor else 3.0
        if len(shape) == 2:
            values = rng.normal(0, gain / shape[1] ** 0.5, shape)
        else:
            values = rng.normal(0 if tensor.endswith("bias") else 1, 0.1, shape)
        weights[tensor] = values.astype(np.float16)
    return weights


def write_relative(folder: Path, name: str, golden: dict[str, Any], **changes: Any) -> Path:
    """The folder of a relative, with its settings changed."""
    folder.mkdir(parents=True)
    write_json(folder / "config.json", json.loads(str(golden[f"{name}/config"])) | changes)
    llama_2_tokenizer()(folder)
    weights = drawn(name, json.loads(str(golden[f"{name}/shapes"])))
    write_safetensors(folder / "model.safetensors", weights)
    return folder
