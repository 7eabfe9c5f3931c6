"""What choosing a token costs, by options: ``python benchmarks/sampling.py``.

Logits spread like a text's; medians of many choices, microseconds a token.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from typing import Any

import click
import numpy as np

from edgellama.kernels_cpu.compiling.code_cache import CompiledKernels
from edgellama.kernels_cpu.machine.cpu import select_tier
from edgellama.sampling.options import SamplingOptions
from edgellama.sampling.presets import CHAT_SAMPLING
from edgellama.sampling.sampler import Sampler

CASES: Mapping[str, dict[str, Any]] = {
    "defaults": {},
    "greedy": {"temperature": 0},
    "chat's penalties and DRY": dict(CHAT_SAMPLING),
    "no filter": {"top_k": 0, "top_p": 1.0, "min_p": 0.0},
    "frequency penalty": {"frequency_penalty": 0.5},
    "logit bias of 10 tokens": {"bias": dict.fromkeys(range(10), -1.0)},
    "typical": {"typical_p": 0.9},
    "typical alone": {"typical_p": 0.9, "top_k": 0},
    "top-n-sigma": {"top_n_sigma": 1.0},
    "XTC": {"xtc_probability": 0.5},
    "dynamic temperature": {"dynatemp_range": 0.5},
    "Mirostat 1": {"mirostat": 1},
    "Mirostat 2": {"mirostat": 2},
}


def microseconds(sampler: Sampler, rows: Any, history: list[int]) -> float:
    """The median time of a choice."""
    times = []
    for row in rows:
        started = time.perf_counter()
        sampler(row, history)
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1e6


@click.command()
@click.option("--vocab-size", "sizes", multiple=True, type=int, default=(49_152, 128_256))
@click.option("--choices", default=100, show_default=True, help="Choices for each case.")
def main(sizes: tuple[int, ...], choices: int) -> None:
    """Print a table of microseconds a token, with the kernel and by the pure functions alone."""
    kernels = CompiledKernels(select_tier())
    rng = np.random.default_rng(0)
    history = rng.integers(0, min(sizes), 300).tolist()
    print("| options | " + " | ".join(f"{size:,} tokens | pure" for size in sizes) + " |")
    print("|---|" + "---|---|" * len(sizes))
    for name, options in CASES.items():
        cells = []
        for size in sizes:
            rows = rng.gumbel(0, 2.5, (choices, size)).astype(np.float32)
            bias = options.get("bias")
            own = {option: value for option, value in options.items() if option != "bias"}
            made = SamplingOptions(seed=1, **own)
            for sampler in (Sampler(made, kernels, bias=bias), Sampler(made, bias=bias)):
                cells.append(f"{microseconds(sampler, rows, history):.0f}")
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
