"""Makes tests/data/dynamic_golden.npz: a small Llama with dynamic NTK scaling in ``transformers``.

Run in ``tests`` with torch and transformers installed: ``python -m reference.make_dynamic_golden``.
The file holds the weights as make_golden does, tokens, and float32 logits: ``prompt/N`` of the
first N tokens computed at once, ``decoded/N`` of those after them, one at a time over the cache.
"""

import json
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from reference.make_golden import COMMON, DATA_FOLDER, arrays_of, build

NUM_TOKENS = 40
PROMPTS = (1, 16, 17, 33)
SHAPE: dict[str, Any] = COMMON | {
    "width": 32, "heads": 2, "kv_heads": 1, "layers": 2, "feed_forward": 48, "tied": True,
    "context_length": 16,
}  # fmt: skip
FACTOR = 2.0


def logits_after(prompt_length: int, tokens: Any) -> tuple[Any, Any]:
    """Of the prompt and of what follows; by a fresh model, since lengths stick to one."""
    torch.manual_seed(20)
    model = build(SHAPE | {"rope_scaling": "dynamic", "rope_factor": FACTOR})
    cache = DynamicCache()
    with torch.no_grad():
        prompt = model(tokens[:, :prompt_length], past_key_values=cache).logits[0]
        rows = [
            model(tokens[:, place : place + 1], past_key_values=cache).logits[0, 0]
            for place in range(prompt_length, tokens.shape[1])
        ]
    return prompt.numpy(), torch.stack(rows).numpy()


def main() -> None:
    """Write the file."""
    torch.manual_seed(20)
    model = build(SHAPE | {"rope_scaling": "dynamic", "rope_factor": FACTOR})
    tokens = torch.randint(0, SHAPE["vocab_size"], (1, NUM_TOKENS))
    arrays: dict[str, Any] = arrays_of(model, SHAPE)
    for length in PROMPTS:
        prompt, decoded = logits_after(length, tokens)
        arrays |= {f"prompt/{length}": prompt, f"decoded/{length}": decoded}
    np.savez_compressed(
        DATA_FOLDER / "dynamic_golden.npz",
        shape=np.array(json.dumps(SHAPE | {"rope_dynamic_factor": FACTOR})),
        tokens=tokens[0].numpy().astype(np.int32),
        **arrays,
    )


if __name__ == "__main__":
    main()
