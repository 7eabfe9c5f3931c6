"""Many prompts: one after another, in a batch, and on llama.cpp in batches of the same width.

Every round measures all of them, each in a process of its own; ratios are those of one round. The
prompts are random token ids, so that nothing ends a text early. POSIX only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from workload import pseudo_random_tokens

HERE = Path(__file__).parent
SHORTEST, LONGEST = 50, 500
ALONE, TOGETHER, PEER = "one after another", "batch", "llama.cpp"
Task = dict[str, Any]


def prompts_of(count: int, vocab_size: int) -> list[list[int]]:
    """Prompts of SHORTEST to LONGEST tokens, evenly spread and mixed."""
    lengths = [SHORTEST + (LONGEST - SHORTEST) * (37 * n % count) // count for n in range(count)]
    tokens = pseudo_random_tokens(sum(lengths), vocab_size)
    starts = [sum(lengths[:n]) for n in range(count)]
    return [tokens[start : start + length] for start, length in zip(starts, lengths, strict=True)]


def run_edgellama(task: Task, *, is_together: bool) -> float:
    """Seconds that all texts take, by ``generate_batch`` or by one call after another."""
    from edgellama import Llama

    length = max(map(len, task["prompts"])) + task["num_tokens"]
    options = {"max_tokens": task["num_tokens"], "temperature": 0}
    with Llama(
        task["model"], num_threads=task["num_threads"], context_length=length, cache_limit=0
    ) as llama:
        list(llama.generate_batch(task["prompts"][:2], max_tokens=2, temperature=0))
        started = perf_counter()
        if is_together:
            results = list(llama.generate_batch(task["prompts"], width=task["width"], **options))
        else:
            results = [llama.generate(prompt, **options) for prompt in task["prompts"]]
        seconds = perf_counter() - started
    num_tokens = sum(len(result.tokens) for result in results)
    if num_tokens < 0.9 * len(task["prompts"]) * task["num_tokens"]:
        raise SystemExit(f"texts ended early: {num_tokens} tokens")
    return seconds


def measure(command: list[str], task: Task) -> float:
    """Seconds that a worker reports."""
    result = subprocess.run(
        command, input=json.dumps(task), stdout=subprocess.PIPE, text=True, check=True
    )
    return float(json.loads(result.stdout)["seconds"])


def main() -> None:
    """Measure in rounds and print the table."""
    options = read_options()
    if options.worker:
        task = json.load(sys.stdin)
        seconds = run_edgellama(task, is_together=options.worker == TOGETHER)
        print(json.dumps({"seconds": seconds}))
        return
    from edgellama.quant.gguf.file import GGUFFile
    from edgellama.quant.model_config import ModelConfig

    with GGUFFile(options.model) as file:
        vocab_size = ModelConfig.from_gguf(file).vocab_size
    task = {
        "model": str(options.model.resolve()),
        "num_threads": options.threads,
        "num_tokens": options.tokens,
        "width": options.width,
        "prompts": prompts_of(options.prompts, vocab_size),
    }
    own = [sys.executable, str(HERE / "batch.py"), str(options.model), "--worker"]
    commands = {ALONE: [*own, ALONE], TOGETHER: [*own, TOGETHER]}
    if options.peer_python:
        commands[PEER] = [options.peer_python, str(HERE / "run_llama_cpp_batch.py")]
    rounds = [
        {name: measure(command, task) for name, command in commands.items()}
        for _ in range(options.rounds)
    ]
    print(
        f"{options.model.name}: {options.prompts} prompts of {SHORTEST} to {LONGEST} tokens, "
        f"{options.tokens} tokens each, width {options.width}, {options.threads} threads"
    )
    print("| | seconds | tokens/s | batch against it |\n|---|---|---|---|")
    for name in commands:
        typical = median(found[name] for found in rounds)
        ratios = [found[name] / found[TOGETHER] for found in rounds]
        speed = options.prompts * options.tokens / typical
        spread = f"{median(ratios):.2f}x ({min(ratios):.2f}-{max(ratios):.2f})"
        print(f"| {name} | {typical:.1f} | {speed:.1f} | {spread} |")


def read_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--peer-python", help="an interpreter that has llama-cpp-python")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", choices=(ALONE, TOGETHER), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
