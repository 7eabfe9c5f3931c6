"""Steers a text by adding a direction to the residual stream, without training anything.

The direction is what tells texts of one kind from texts of another: the difference of the means of
their rows after a layer. A hook first records these rows, another then adds the direction:

    python examples/steering.py --strength 2 "I think that my new neighbours are"
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgellama import Llama, StepRows

GLAD = (
    "I love this, it is wonderful and makes me happy.",
    "What a beautiful day, everything is great.",
    "She was delighted with the excellent news.",
)
SAD = (
    "I hate this, it is horrible and makes me angry.",
    "What an awful day, everything is bad.",
    "She was shocked by the terrible news.",
)


def mean_row(llama: Llama, texts: Sequence[str], layer: int) -> npt.NDArray[np.float32]:
    """The mean of the residual rows that a layer leaves of texts, the first token's left out."""
    rows: list[npt.NDArray[np.float32]] = []

    def record(now: npt.NDArray[np.float32], step: StepRows) -> None:
        rows.append(now[step.positions > 0].copy())

    hook = llama.add_hook(record, layers=[layer])
    try:
        llama.embed(texts)
    finally:
        llama.remove_hook(hook)
    mean: npt.NDArray[np.float32] = np.concatenate(rows).mean(axis=0)
    return mean


def direction(llama: Llama, layer: int) -> npt.NDArray[np.float32]:
    """From sad to glad."""
    return mean_row(llama, GLAD, layer) - mean_row(llama, SAD, layer)


def steered(llama: Llama, prompt: str, layer: int, added: npt.NDArray[np.float32]) -> str:
    """How a text goes on while ``added`` is added after a layer, to every token."""

    def steer(rows: npt.NDArray[np.float32], step: StepRows) -> None:
        rows += added

    hook = llama.add_hook(steer, layers=[layer])
    try:
        return llama.generate(prompt, max_tokens=30, temperature=0, repeat_penalty=1.2).text
    finally:
        llama.remove_hook(hook)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the text as it is, steered towards glad, and towards sad."""
    parser = argparse.ArgumentParser(description="Steer a text.")
    parser.add_argument("prompt", nargs="?", default="I think that my new neighbours are")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--strength", type=float, default=2.0)
    options = parser.parse_args(arguments)
    with Llama(options.model, context_length=512) as llama:
        layer = llama.config.block_count // 2
        glad = direction(llama, layer)
        for name, strength in (("as it is", 0.0), ("glad", 1.0), ("sad", -1.0)):
            added = (strength * options.strength * glad).astype(np.float32)
            print(f"{name}: {options.prompt}{steered(llama, options.prompt, layer, added)}\n")


if __name__ == "__main__":
    main()
