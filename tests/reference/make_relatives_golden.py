"""Writes tests/data/relatives_golden.npz: what ``transformers`` computes for a Llama's relatives.

Run in ``tests`` with torch and transformers 5: ``python -m reference.make_relatives_golden``. Of
InternLM, which it does not have, the models are Llamas, whose queries, keys and values InternLM 2's
own code takes from one matrix; of MiniCPM they are Granites with the multipliers that its own code
computes. For each: config.json, the shapes of its tensors, token ids, and
float32 logits of the last positions.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from reference.relatives import MINICPM, RELATIVES, SIZES, drawn

GOLDEN = Path(__file__).parent.parent / "data" / "relatives_golden.npz"
NUM_TOKENS, NUM_LOGITS = 24, 1
INTERNLM2 = {
    "model.tok_embeddings.": "model.embed_tokens.",
    ".attention_norm.": ".input_layernorm.",
    ".ffn_norm.": ".post_attention_layernorm.",
    ".attention.wo.": ".self_attn.o_proj.",
    ".feed_forward.w1.": ".mlp.gate_proj.",
    ".feed_forward.w2.": ".mlp.down_proj.",
    ".feed_forward.w3.": ".mlp.up_proj.",
}


def internlm2_shapes(shapes: dict[str, list[int]]) -> dict[str, list[int]]:
    """A Llama's shapes under InternLM 2's names."""
    renamed: dict[str, list[int]] = {}
    for name, shape in shapes.items():
        for own, llamas in INTERNLM2.items():
            name = name.replace(llamas, own)
        if name == "lm_head.weight":
            renamed["output.weight"] = shape
        elif name.endswith("q_proj.weight"):
            rows = shape[0] * (SIZES["num_attention_heads"] + 2 * SIZES["num_key_value_heads"])
            stem = name.replace("self_attn.q_proj.weight", "attention.wqkv.weight")
            renamed[stem] = [rows // SIZES["num_attention_heads"], shape[1]]
        elif not name.endswith(("k_proj.weight", "v_proj.weight")):
            renamed[name] = shape
    return renamed


def internlm2_as_llama(weights: dict[str, Any]) -> dict[str, Any]:
    """InternLM 2's weights under a Llama's names, cut as its code cuts the product."""
    found = {}
    for name, values in weights.items():
        for own, llamas in INTERNLM2.items():
            name = name.replace(own, llamas)
        if name.endswith("attention.wqkv.weight"):
            stem = name.replace("attention.wqkv.weight", "self_attn.")
            width = values.shape[1]
            head_size = SIZES["hidden_size"] // SIZES["num_attention_heads"]
            groups = SIZES["num_attention_heads"] // SIZES["num_key_value_heads"]
            states = values.reshape(-1, groups + 2, head_size, width)
            found[f"{stem}q_proj.weight"] = states[:, :groups].reshape(-1, width)
            found[f"{stem}k_proj.weight"] = states[:, -2].reshape(-1, width)
            found[f"{stem}v_proj.weight"] = states[:, -1].reshape(-1, width)
        else:
            found["lm_head.weight" if name == "output.weight" else name] = values
    return found


def minicpm_as_granite() -> dict[str, float]:
    """MiniCPM's multipliers as its modeling_minicpm.py computes them, under Granite's names."""
    head_size = SIZES["hidden_size"] // SIZES["num_attention_heads"]
    return {
        "embedding_multiplier": MINICPM["scale_emb"],
        "residual_multiplier": MINICPM["scale_depth"] / math.sqrt(SIZES["num_hidden_layers"]),
        "logits_scaling": SIZES["hidden_size"] / MINICPM["dim_model_base"],
        "attention_multiplier": 1 / math.sqrt(head_size),
    }


def outputs(name: str, seed: int) -> dict[str, Any]:
    """One relative's arrays."""
    kind, settings = RELATIVES[name]
    known = {"InternLM2": "Llama", "InternLM3": "Llama", "MiniCPM": "Granite"}.get(kind, kind)
    computed = minicpm_as_granite() if kind == "MiniCPM" else {}
    config = getattr(transformers, f"{known}Config")(**SIZES | settings | computed)
    model = getattr(transformers, f"{known}ForCausalLM")(config).eval()
    is_tied = config.tie_word_embeddings
    shapes = {
        tensor: list(values.shape)
        for tensor, values in model.state_dict().items()
        if not (is_tied and tensor == "lm_head.weight")
    }
    shapes = internlm2_shapes(shapes) if name == "internlm2" else shapes
    weights: dict[str, Any] = {
        tensor: torch.from_numpy(values.astype(np.float32))
        for tensor, values in drawn(name, shapes).items()
    }
    own = internlm2_as_llama(weights) if name == "internlm2" else weights
    missing = model.load_state_dict(own, strict=False)
    assert not missing.unexpected_keys and set(missing.missing_keys) <= {"lm_head.weight"}
    model.tie_weights()
    tokens = np.random.default_rng(seed).integers(0, SIZES["vocab_size"], NUM_TOKENS)
    with torch.no_grad():
        logits = model(torch.from_numpy(tokens)[None]).logits[0].numpy()
    written = {k: v for k, v in config.to_diff_dict().items() if k not in computed} | {
        "architectures": [f"{kind}ForCausalLM"],
        "model_type": kind.lower(),
    }
    return {
        f"{name}/config": np.array(json.dumps(written)),
        f"{name}/shapes": np.array(json.dumps(shapes)),
        f"{name}/tokens": tokens.astype(np.int32),
        f"{name}/logits": logits[-NUM_LOGITS:],
    }


def main() -> None:
    """Write the file."""
    arrays: dict[str, Any] = {}
    for seed, name in enumerate(RELATIVES):
        arrays |= outputs(name, seed)
    np.savez_compressed(GOLDEN, **arrays)


if __name__ == "__main__":
    main()
