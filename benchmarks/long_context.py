"""How well a model reads beyond the length it was trained for, by ways to scale its positions.

    python benchmarks/long_context.py smollm2 tests/data/english.txt docs/*.md --tokens 12000

prints the perplexity of the last tokens of the files' texts, read one after the other.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgellama import Llama

SCALINGS = (None, "yarn:2", "dynamic:2", "linear:2")


def perplexity(llama: Llama, tokens: Sequence[int], num_last: int) -> float:
    """Of the last tokens, with all others before them."""
    engine = llama._engine
    cache = engine.new_cache(len(tokens))
    engine.forward(tokens[:-num_last], cache, logits="none")
    logits = engine.forward(tokens[-num_last:], cache, logits="all").astype(np.float64)
    cache.close()
    largest = logits.max(axis=1, keepdims=True)
    scores: npt.NDArray[np.float64] = logits - largest
    scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
    targets = np.array(tokens[1 - num_last :])
    return float(np.exp(-scores[np.arange(num_last - 1), targets].mean()))


def main() -> None:
    """Print a line for each way."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--tokens", type=int, default=12000)
    parser.add_argument("--last", type=int, default=800)
    options = parser.parse_args()
    text = "".join(path.read_text("utf-8") for path in options.files)
    for scaling in SCALINGS:
        with Llama(options.model, rope_scaling=scaling) as llama:
            tokens = llama.tokenizer.encode(text)[: options.tokens]
            found = perplexity(llama, tokens, options.last)
            print(f"{scaling or 'as the file says':>16}: {len(tokens)} tokens, {found:.1f}")


if __name__ == "__main__":
    main()
