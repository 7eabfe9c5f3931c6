"""Worker: runs the workload on edgellama and prints its speeds as one line of JSON."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import version
from time import perf_counter

from workload import Workload, measure, read_workload, report

from edgellama.engine import Engine
from edgellama.quant.gguf_file import GGUFFile
from edgellama.tokenizer import load_tokenizer


def run(work: Workload) -> None:
    """Load the model with its tokenizer, as the command line does, and measure."""
    started = perf_counter()
    with GGUFFile(work.model) as file:
        tokenizer = load_tokenizer(file.metadata)
        with Engine(file, num_threads=work.num_threads) as engine:
            cache = engine.new_cache(work.context_length)
            load_s = perf_counter() - started

            def forward(tokens: Sequence[int]) -> None:
                engine.forward(tokens, cache)

            def forget() -> None:
                cache.truncate(0)

            speeds = measure(work, tokenizer.vocab_size, load_s, forget, forward)
            description = {
                "engine": f"edgellama {version('edgellama')}",
                "build": f"tier {engine.tier.name}, Python {platform.python_version()}",
            }
    report(speeds, description)


if __name__ == "__main__":
    run(read_workload())
