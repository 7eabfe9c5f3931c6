"""Makes tests/data/golden_*.npz: small random Llamas of ``transformers`` and their logits.

Run in ``tests`` with torch and transformers installed: ``python -m reference.make_golden``.
Each file holds the weights under their GGUF names and in GGUF's order (queries and keys
interleaved), the shape as JSON, a token sequence, and float32 logits of all its positions.
"""

import json
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

DATA_FOLDER = Path(__file__).resolve().parent.parent / "data"
NUM_TOKENS = 40

COMMON = {"layers": 2, "vocab_size": 288, "context_length": 64, "rms_epsilon": 1e-5}
LLAMA3_SCALING = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    # Short, so that the few positions of the sequence already tell scaled from unscaled.
    "original_max_position_embeddings": 32,
}
CASES: dict[str, dict[str, Any]] = {
    "mha_untied": {"width": 32, "heads": 4, "kv_heads": 4, "feed_forward": 48},
    "gqa_tied": {"width": 48, "heads": 6, "kv_heads": 2, "feed_forward": 80, "tied": True},
    "head_size_biases": {
        "width": 48,
        "heads": 3,
        "kv_heads": 1,
        "head_size": 20,
        "feed_forward": 64,
        "biases": True,
        "rope_base": 5000.0,
    },
    "llama3_rope": {
        "width": 32,
        "heads": 4,
        "kv_heads": 2,
        "head_size": 16,
        "feed_forward": 48,
        "tied": True,
        "rope_base": 500000.0,
        "rope_freqs": True,
    },
    "linear_rope": {
        "width": 32,
        "heads": 2,
        "kv_heads": 1,
        "feed_forward": 48,
        "tied": True,
        "rope_scaling": "linear",
        "rope_factor": 3.0,
        # Less than the sequence has tokens, as of the others that scale.
        "context_length": 16,
    },
    "yarn_rope": {
        "width": 64,
        "heads": 2,
        "kv_heads": 1,
        "layers": 1,
        "feed_forward": 48,
        "tied": True,
        "rope_scaling": "yarn",
        "rope_factor": 4.0,
        "rope_original_context": 24,
        "context_length": 96,
    },
    "window": {
        "width": 32,
        "heads": 4,
        "kv_heads": 2,
        "feed_forward": 48,
        "tied": True,
        "sliding_window": 7,
    },
}

LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
MODEL_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def gguf_name(name: str) -> str:
    """The GGUF name of a parameter of LlamaForCausalLM."""
    if name in MODEL_NAMES:
        return MODEL_NAMES[name]
    _, _, layer, rest = name.split(".", 3)
    module, kind = rest.rsplit(".", 1)
    return f"blk.{layer}.{LAYER_NAMES[module]}.{kind}"


def interleaved(values: Array, heads: int) -> Array:
    """Rows of a query or key projection from half-split to neighbouring pairs, per head."""
    split = values.reshape(heads, 2, -1, *values.shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(values.shape)


def rope_divisors(head_size: int, base: float) -> Array:
    """Llama 3.1's frequency divisors [head_size / 2], by its published formula."""
    scaling = LLAMA3_SCALING
    original = scaling["original_max_position_embeddings"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    divisors = []
    for index in range(head_size // 2):
        wavelength = 2 * np.pi * base ** (2 * index / head_size)
        if wavelength < original / high:
            divisors.append(1.0)
        elif wavelength > original / low:
            divisors.append(scaling["factor"])
        else:
            smooth = (original / wavelength - low) / (high - low)
            divisors.append(1 / ((1 - smooth) / scaling["factor"] + smooth))
    return np.array(divisors, dtype=np.float32)


def rope_parameters(shape: dict[str, Any]) -> dict[str, Any]:
    """The shape's rotary positions as LlamaConfig wants them."""
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": shape.get("rope_base", 10000.0)}
    if shape.get("rope_freqs"):
        rope |= {"rope_type": "llama3", **LLAMA3_SCALING}
    if "rope_scaling" in shape:
        rope |= {"rope_type": shape["rope_scaling"], "factor": shape["rope_factor"]}
    if "rope_original_context" in shape:
        rope |= {"original_max_position_embeddings": shape["rope_original_context"]}
    return rope


def build(shape: dict[str, Any]) -> Any:
    """A float32 model of ``shape`` with random weights of unit gain."""
    sizes: dict[str, Any] = {
        "vocab_size": shape["vocab_size"],
        "hidden_size": shape["width"],
        "intermediate_size": shape["feed_forward"],
        "num_hidden_layers": shape["layers"],
        "num_attention_heads": shape["heads"],
        "num_key_value_heads": shape["kv_heads"],
        "head_dim": shape.get("head_size"),
        "max_position_embeddings": shape["context_length"],
        "rms_norm_eps": shape["rms_epsilon"],
        "rope_parameters": rope_parameters(shape),
        "tie_word_embeddings": shape.get("tied", False),
        "attn_implementation": "eager",
    }
    model: Any
    if "sliding_window" in shape:
        model = MistralForCausalLM(MistralConfig(sliding_window=shape["sliding_window"], **sizes))
    else:
        biased = shape.get("biases", False)
        model = LlamaForCausalLM(LlamaConfig(attention_bias=biased, mlp_bias=biased, **sizes))
    model = model.float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                gain = 1.0 if "layers" in name else 3.0
                parameter.normal_(0, gain / parameter.shape[1] ** 0.5)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.1)
            else:
                parameter.normal_(1, 0.1)
    return model


def arrays_of(model: Any, shape: dict[str, Any]) -> dict[str, Any]:
    """The model's parameters under GGUF names and in GGUF's order."""
    arrays: dict[str, Any] = {}
    heads = {"attn_q": shape["heads"], "attn_k": shape["kv_heads"]}
    for name, parameter in model.named_parameters():
        new_name = gguf_name(name)
        values = parameter.detach().numpy()
        for part, count in heads.items():
            if f".{part}." in new_name:
                values = interleaved(values, count)
        arrays[new_name] = values
    if shape.get("rope_freqs"):
        arrays["rope_freqs.weight"] = rope_divisors(shape["head_size"], shape["rope_base"])
    return arrays


def main() -> None:
    """Write every case, each from its own fixed seed."""
    for seed, (name, own) in enumerate(CASES.items()):
        torch.manual_seed(seed)
        shape = COMMON | own
        model = build(shape)
        tokens = torch.randint(0, shape["vocab_size"], (1, NUM_TOKENS))
        with torch.no_grad():
            logits = model(tokens).logits[0].numpy()
        np.savez_compressed(
            DATA_FOLDER / f"golden_{name}.npz",
            shape=np.array(json.dumps(shape)),
            tokens=tokens[0].numpy().astype(np.int32),
            logits=logits,
            **arrays_of(model, shape),
        )


if __name__ == "__main__":
    main()
