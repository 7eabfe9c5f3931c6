"""What a LoRA adapter on all matrices costs: steps with and without it, in alternation.

Factors are random, in a temporary file. One thread is timed by its own clock, which stops while
somebody else has the core; several are by the wall's, so there the machine should be quiet.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from gguf import GGUFWriter

from edgellama.engine.engine import Engine
from edgellama.engine.weights.adapter_set import AdapterSet
from edgellama.quant.gguf.file import GGUFFile

FORMATS = {"f32": np.float32, "f16": np.float16}
CONTEXT_LENGTH = 1024


def write_adapter(path: Path, model: GGUFFile, rank: int, format_name: str) -> Path:
    """Random factors of this rank for every matrix of every layer."""
    rng = np.random.default_rng(0)
    writer = GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(rank))
    for name, tensor in model.tensors.items():
        if name.startswith("blk.") and len(tensor.shape) == 2:
            rows, columns = tensor.shape
            a = rng.standard_normal((rank, columns)) * columns**-0.5
            b = rng.standard_normal((rows, rank)) * 0.02
            for letter, factor in (("a", a), ("b", b)):
                writer.add_tensor(f"{name}.lora_{letter}", factor.astype(FORMATS[format_name]))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def step_times(
    engine: Engine, sets: list[AdapterSet], num_tokens: int, rounds: int
) -> list[list[float]]:
    """Seconds of a step of ``num_tokens`` with each set, a round after the other."""
    clock: Callable[[], float] = time.perf_counter if engine.num_threads > 1 else time.thread_time
    caches = [engine.new_cache(CONTEXT_LENGTH, adapters=adapters) for adapters in sets]
    tokens = np.random.default_rng(1).integers(0, engine.config.vocab_size, num_tokens)
    seconds: list[list[float]] = [[] for _ in sets]
    for number in range(rounds + 1):
        order = range(len(sets)) if number % 2 else reversed(range(len(sets)))
        for index in order:
            cache = caches[index]
            if cache.length + num_tokens > CONTEXT_LENGTH:
                cache.truncate(0)
            started = clock()
            engine.forward(tokens.astype(np.int32), cache)
            if number:  # The first round warms up.
                seconds[index].append(clock() - started)
    return seconds


def main() -> None:
    """Print the median step of each, and the median of the rounds' own ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, nargs="+", default=[512, 1])
    parser.add_argument("--rounds", type=int, nargs="+", default=[20, 300], help="for each step")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        GGUFFile(options.model) as file,
        Engine(file, num_threads=options.threads) as engine,
    ):
        sets = [engine.adapters.adapter_set(None)]
        for name in FORMATS:
            path = write_adapter(Path(folder) / f"{name}.gguf", file, options.rank, name)
            sets.append(engine.adapters.adapter_set({engine.adapters.load(path): 1.0}))
        for num_tokens, rounds in zip(options.tokens, options.rounds, strict=True):
            seconds = np.array(step_times(engine, sets, num_tokens, rounds))
            for name, times in zip(("none", *FORMATS), seconds, strict=True):
                ratio = np.median(times / seconds[0]) - 1
                print(
                    f"{num_tokens} tokens, adapter {name}: {1e3 * np.median(times):.2f} ms, "
                    f"{ratio:+.1%}"
                )


if __name__ == "__main__":
    main()
