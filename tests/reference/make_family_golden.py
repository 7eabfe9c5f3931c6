"""Writes tests/data/family_golden.npz: what ``transformers`` computes for the tiny family.

Run in ``tests`` with torch and transformers installed: ``python -m reference.make_family_golden``.
For each member: token ids, the best next token at every position, and float32 logits of the last
positions; and the divisors of Llama 3.1's frequencies for heads of 64 and 128.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM, MistralForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from reference.family import MEMBERS
from reference.family_member import Member

GOLDEN = Path(__file__).parent.parent / "data" / "family_golden.npz"
NUM_TOKENS, NUM_LOGITS = 24, 3
CLASSES = {"llama": LlamaForCausalLM, "mistral": MistralForCausalLM}


def outputs(member: Member, seed: int) -> dict[str, Any]:
    """Tokens, best next tokens and logits of a member, loaded from its own folder."""
    with tempfile.TemporaryDirectory() as parent:
        # Without tables of angles, and as safetensors, which is all that the library needs.
        # What transformers does not know is loaded as the plain Llama that it is.
        plain = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
        is_known = member.full_config["model_type"] in CLASSES
        config = {**member.config, **({} if is_known else plain)}
        folder = replace(member, old=False, config=config).write(Path(parent) / member.name)
        kind = CLASSES[AutoConfig.from_pretrained(folder).model_type]
        model = kind.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        rng = np.random.default_rng(seed)
        tokens = rng.integers(0, member.full_config["vocab_size"], NUM_TOKENS)
        with torch.no_grad():
            logits = model(torch.from_numpy(tokens)[None]).logits[0].numpy()
    return {
        f"{member.name}/tokens": tokens.astype(np.int32),
        f"{member.name}/best": logits.argmax(1).astype(np.int32),
        f"{member.name}/logits": logits[-NUM_LOGITS:],
    }


def divisors(head_size: int, factor: float) -> Any:
    """Unscaled by scaled frequencies of Llama 3.1 (8B, 70B and 405B alike) or 3.2."""
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = LlamaConfig(hidden_size=head_size, num_attention_heads=1, rope_parameters=rope)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    exponents = torch.arange(0, head_size, 2, dtype=torch.float64) / head_size
    plain = 1.0 / torch.exp(exponents * math.log(500000.0))
    return (plain / scaled.double()).float().numpy()


def main() -> None:
    """Write the file."""
    arrays: dict[str, Any] = {}
    for seed, member in enumerate(MEMBERS):
        arrays |= outputs(member, seed)
    for head_size, factor in ((128, 8.0), (64, 32.0), (128, 32.0)):
        arrays[f"divisors/{head_size}/{factor:g}"] = divisors(head_size, factor)
    np.savez_compressed(GOLDEN, **arrays)


if __name__ == "__main__":
    main()
