"""Writes tests/data/relatives_golden.npz: what ``transformers`` computes for a Llama's relatives.

Run in ``tests`` with torch and transformers 5: ``python -m reference.make_relatives_golden``. For
what it does not have, a model there computes that is the same, ``relative_twins``. For each:
config.json, the shapes of its tensors, token ids, and float32 logits of the last positions.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from reference.relative_twins import TWINS, Twin
from reference.relatives import NUM_TOKENS, RELATIVES, SIZES, WITH_VISION, drawn

GOLDEN = Path(__file__).parent.parent / "data" / "relatives_golden.npz"
USUAL_TOKENS, NUM_LOGITS = 24, 1


def outputs(name: str, seed: int) -> dict[str, Any]:
    """One relative's arrays."""
    kind, settings = RELATIVES[name]
    twin = TWINS.get(kind, Twin(kind))
    config = getattr(transformers, f"{twin.known}Config")(**SIZES | settings | twin.settings)
    model = getattr(transformers, f"{twin.known}ForCausalLM")(config).eval()
    is_tied = config.tie_word_embeddings
    twins_shapes = {
        tensor: list(values.shape)
        for tensor, values in model.state_dict().items()
        if not (is_tied and tensor == "lm_head.weight")
    }
    shapes = twin.own_shapes(twins_shapes)
    weights: dict[str, Any] = {
        tensor: torch.from_numpy(values.astype(np.float32))
        for tensor, values in drawn(name, shapes).items()
    }
    found = twin.twins_weights(weights, twins_shapes, torch.zeros)
    missing = model.load_state_dict(found, strict=False)
    assert not missing.unexpected_keys and set(missing.missing_keys) <= {"lm_head.weight"}
    model.tie_weights()
    num_tokens = NUM_TOKENS.get(name, USUAL_TOKENS)
    tokens = np.random.default_rng(seed).integers(0, SIZES["vocab_size"], num_tokens)
    with torch.no_grad():
        logits = model(torch.from_numpy(tokens)[None]).logits[0].numpy()
    architecture = twin.architecture or f"{kind}ForCausalLM"
    named = {"architectures": [architecture], "model_type": kind.lower()}
    written = {k: v for k, v in config.to_diff_dict().items() if k not in twin.settings}
    # What a default says is not in the difference, but another name's default may be another.
    written = {ours: getattr(config, ours) for ours in twin.renamed} | written
    written = {twin.renamed.get(k, k): v for k, v in written.items()} | settings | named
    return {
        f"{name}/config": np.array(json.dumps(written)),
        f"{name}/shapes": np.array(json.dumps(shapes)),
        f"{name}/tokens": tokens.astype(np.int32),
        f"{name}/logits": logits[-NUM_LOGITS:],
    }


def outputs_with_vision(name: str, seed: int) -> dict[str, Any]:
    """One model's arrays for a text, without the tensors of vision."""
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    vision = {"depth": 1, "hidden_size": 32, "embed_dim": 32, "num_heads": 2}
    config = getattr(transformers, f"{WITH_VISION[name]}Config")(
        text_config=SIZES | {"rope_parameters": rope}, vision_config=vision
    )
    model = getattr(transformers, f"{WITH_VISION[name]}ForConditionalGeneration")(config).eval()
    shapes = {k: list(v.shape) for k, v in model.state_dict().items() if "visual" not in k}
    weights = {k: torch.from_numpy(v.astype(np.float32)) for k, v in drawn(name, shapes).items()}
    assert not model.load_state_dict(weights, strict=False).unexpected_keys
    tokens = np.random.default_rng(seed).integers(0, SIZES["vocab_size"], USUAL_TOKENS)
    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(tokens)[None]).logits[0].numpy()
    named = {"architectures": [f"{WITH_VISION[name]}ForConditionalGeneration"]}
    text = config.text_config.to_dict()
    kept = {k: v for k, v in text.items() if isinstance(v, (int, str, float)) or k in SIZES}
    written = named | {"text_config": kept | {"rope_parameters": rope}}
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
    for seed, name in enumerate(WITH_VISION):
        arrays |= outputs_with_vision(name, seed)
    np.savez_compressed(GOLDEN, **arrays)


if __name__ == "__main__":
    main()
