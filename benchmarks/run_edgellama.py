"""Worker: runs the workload on edgellama and prints its speeds as one line of JSON."""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # As the command line does.

import platform
from collections.abc import Sequence

from workload import Context, Workload, measure, read_workload, report

from edgellama import __version__
from edgellama.engine.engine import Engine
from edgellama.quant.gguf.file import GGUFFile
from edgellama.text.tokenizer import load_tokenizer


def run(work: Workload) -> None:
    """Load the model with its tokenizer, as the command line does, and measure."""
    with GGUFFile(work.model) as file:
        tokenizer = load_tokenizer(file.metadata)
        with Engine(file, num_threads=work.num_threads) as engine:
            cache = engine.new_cache(work.context_length)

            def append(tokens: Sequence[int]) -> None:
                engine.forward(tokens, cache)

            speeds = measure(work, tokenizer.vocab_size, Context(append, cache.truncate))
            description = (
                f"version {__version__}, tier {engine.tier.name}, "
                f"Python {platform.python_version()}"
            )
    report(speeds, description)


if __name__ == "__main__":
    run(read_workload())
