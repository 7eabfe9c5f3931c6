"""Writes tiny LoRA adapters as PEFT saves them, and says what they add to each matrix."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from reference.tiny_models import Array, TinyLlama

MODULES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""PEFT's name of each matrix of a layer, by GGUF's."""


def module_name(name: str) -> str:
    """The module of a matrix ("blk.0.attn_q", "output"), as PEFT calls it."""
    if name == "output":
        return "lm_head"
    _, layer, part = name.split(".")
    return f"model.layers.{layer}.{MODULES[part]}"


def random_factors(
    model: TinyLlama, names: Sequence[str], ranks: Mapping[str, int]
) -> dict[str, tuple[Array, Array]]:
    """A (rank, columns) and B (rows, rank), f32 in Hugging Face's order, by matrix.

    ``ranks``: by matrix, or by "" for all others.
    """
    rng = np.random.default_rng(0)
    shapes = model.matrix_shapes()
    factors = {}
    for name in names:
        rows, columns = shapes[name]
        rank = ranks.get(name, ranks[""])
        a = rng.normal(0, columns**-0.5, (rank, columns)).astype(np.float32)
        factors[name] = (a, rng.normal(0, 0.3, (rows, rank)).astype(np.float32))
    return factors


def adapter_tensors(factors: Mapping[str, tuple[Array, Array]]) -> dict[str, Array]:
    """The tensors that PEFT saves."""
    tensors = {}
    for name, (a, b) in factors.items():
        prefix = f"base_model.model.{module_name(name)}"
        tensors |= {f"{prefix}.lora_A.weight": a, f"{prefix}.lora_B.weight": b}
    return tensors


def write_adapter(folder: Path, tensors: Mapping[str, Array], **settings: Any) -> Path:
    """A PEFT folder of these tensors; ``settings`` override those of a plain adapter."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), folder / "adapter_model.safetensors")
    plain = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "someone/tiny-llama",
        "r": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.05,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "modules_to_save": None,
        "rank_pattern": {},
        "alpha_pattern": {},
        "target_modules": ["q_proj"],
        "use_dora": False,
        "use_rslora": False,
    }
    (folder / "adapter_config.json").write_text(json.dumps(plain | settings))
    return folder


def write_base_config(folder: Path, model: TinyLlama, **settings: Any) -> Path:
    """The base model's folder with nothing but its config.json; ``settings`` override others."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": model.width,
        "intermediate_size": model.feed_forward,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "head_dim": model.head_length,
        "vocab_size": model.vocab_size,
        "max_position_embeddings": model.context_length,
        "rms_norm_eps": model.rms_epsilon,
        "tie_word_embeddings": model.tied,
    }
    (folder / "config.json").write_text(json.dumps(config | settings))
    return folder


def interleaved(rows: Array, num_heads: int) -> Array:
    """Rows of heads from Hugging Face's order to GGUF's: new row 2i + j is old row j * half + i."""
    head_size = len(rows) // num_heads
    order = [
        head * head_size + j * head_size // 2 + i
        for head in range(num_heads)
        for i in range(head_size // 2)
        for j in range(2)
    ]
    return rows[order]


def added_weights(
    model: TinyLlama, factors: Mapping[str, tuple[Array, Array]], scales: Mapping[str, float]
) -> dict[str, Array]:
    """scale * B A by matrix, f64 in GGUF's order."""
    heads = {"attn_q": model.heads, "attn_k": model.kv_heads}
    added = {}
    for name, (a, b) in factors.items():
        delta = scales[name] * (b.astype(np.float64) @ a.astype(np.float64))
        part = name.rpartition(".")[2]
        added[name] = interleaved(delta, heads[part]) if part in heads else delta
    return added
