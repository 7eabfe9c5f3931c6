"""Makes tests/data/adapter_golden.npz: adapters of ``peft``, and logits of a Llama with them.

Run in ``tests`` with torch, transformers and peft installed:
``python -m reference.make_adapter_golden``. The model is the case BASE of make_golden. The file
holds two adapters as PEFT saves them, and logits of the last positions with the first, and with
both.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model

from reference.make_golden import CASES, COMMON, DATA_FOLDER, arrays_of, build

BASE = "head_size_biases"
NUM_POSITIONS = 6
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"]


def base_model() -> tuple[Any, Any]:
    """The model and the tokens of the case, which the same seed makes again."""
    torch.manual_seed(list(CASES).index(BASE))
    shape = COMMON | CASES[BASE]
    model = build(shape)
    saved = np.load(DATA_FOLDER / f"golden_{BASE}.npz")
    for name, values in arrays_of(model, shape).items():
        np.testing.assert_array_equal(values, saved[name])
    return model, torch.from_numpy(saved["tokens"].astype(np.int64))[None]


def saved_files(folder: Path) -> dict[str, Any]:
    """What PEFT wrote of an adapter."""
    weights = (folder / "adapter_model.safetensors").read_bytes()
    return {
        "weights": np.frombuffer(weights, np.uint8),
        "config": np.array((folder / "adapter_config.json").read_text("utf-8")),
    }


def logits_of(model: Any, tokens: Any) -> Any:
    """Logits of the last positions."""
    with torch.no_grad():
        return model(tokens).logits[0, -NUM_POSITIONS:].numpy()


def main() -> None:
    """Write the file."""
    base, tokens = base_model()
    first = LoraConfig(
        r=3,
        lora_alpha=6,
        target_modules=ALL,
        rank_pattern={"down_proj": 5},
        alpha_pattern={"v_proj": 2},
        use_rslora=True,
    )
    second = LoraConfig(r=2, lora_alpha=3, target_modules=["q_proj", "up_proj"])
    model: Any = get_peft_model(base, first, adapter_name="first")
    model.add_adapter("second", second)
    torch.manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.normal_(0, 0.3 if ".lora_B" in name else parameter.shape[1] ** -0.5)
    arrays: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, save_embedding_layers=False)
        for name in ("first", "second"):
            found = saved_files(Path(folder) / name)
            arrays |= {f"{name}_{key}": value for key, value in found.items()}
    model.set_adapter("first")
    arrays["first_logits"] = logits_of(model, tokens)
    model.base_model.set_adapter(["first", "second"])
    arrays["both_logits"] = logits_of(model, tokens)
    np.savez_compressed(DATA_FOLDER / "adapter_golden.npz", **arrays)


if __name__ == "__main__":
    main()
