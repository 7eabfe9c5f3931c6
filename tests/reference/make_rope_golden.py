"""Writes tests/data/rope_golden.json: angles per position as ``transformers`` computes them.

Run in ``tests`` with torch and transformers 5 installed: ``python -m reference.make_rope_golden``.
"""

import json
from pathlib import Path
from typing import Any

from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

OUTPUT = Path(__file__).parent.parent / "data" / "rope_golden.json"
CASES: dict[str, tuple[int, float, int, dict[str, Any]]] = {
    "yarn_64": (64, 10000.0, 16384, {"rope_type": "yarn", "factor": 4.0,
                                     "original_max_position_embeddings": 4096}),
    "yarn_128": (128, 500000.0, 65536, {"rope_type": "yarn", "factor": 8.0,
                                        "original_max_position_embeddings": 8192}),
    "linear_64": (64, 10000.0, 16384, {"rope_type": "linear", "factor": 4.0}),
    "llama3_128": (128, 500000.0, 131072, {
        "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192}),
}  # fmt: skip


def main() -> None:
    """Radians per position of every pair, and what sines and cosines are multiplied by."""
    golden = {}
    for name, (head_size, base, context_length, parameters) in CASES.items():
        config = LlamaConfig(
            hidden_size=2 * head_size, num_attention_heads=2, head_dim=head_size,
            max_position_embeddings=context_length,
        )  # fmt: skip
        config.rope_parameters = {"rope_theta": base, **parameters}
        frequencies, magnitude = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config, "cpu")
        golden[name] = {
            "head_size": head_size, "base": base, "magnitude": float(magnitude),
            "factor": parameters["factor"],
            "original_context_length": parameters.get("original_max_position_embeddings", 0),
            "frequencies": [float(f"{float(f):.8g}") for f in frequencies.double()],
        }  # fmt: skip
    OUTPUT.write_text(json.dumps(golden) + "\n", "utf-8")


if __name__ == "__main__":
    main()
