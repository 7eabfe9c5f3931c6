"""llama.cpp's llama-bench: its command line and its JSON.

All depths run in one process. Memory is measured in another: before a test at a depth the program
copies the context's state, which no user pays for.
"""

from __future__ import annotations

import json
from statistics import median
from typing import Any

from comparison.engine import Program, Report, Task
from comparison.figures import Quantity

FLASH_ATTENTION = {-1: "auto", 0: "off", 1: "on"}


def speed_arguments(task: Task) -> list[str]:
    """Prompts and decoding at every depth; llama-bench warms up by itself."""
    settings = task.settings
    return [
        *_common(task),
        *("-p", str(settings.prompt_tokens), "-n", str(settings.decode_tokens)),
        *("-d", ",".join(map(str, settings.depths)), "-r", str(settings.repeats)),
    ]


def memory_arguments(task: Task) -> list[str]:
    """The whole context read once."""
    prompt = str(task.settings.context_length)
    return [*_common(task), "-p", prompt, "-n", "0", "-r", "1", "--no-warmup"]


def read(output: str, errors: str, task: Task) -> Report:
    """The rows of ``-o json``, one for each test."""
    try:
        rows: list[dict[str, Any]] = json.loads(output)
        speeds = dict(map(_speed, rows))
        description = _description(rows[0])
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise RuntimeError(
            f"llama-bench wrote no results: {error!r} in {output[:200]!r}"
        ) from error
    settings = task.settings
    wanted = [Quantity(name, depth) for name in ("prefill", "decode") for depth in settings.depths]
    missing = [quantity for quantity in wanted if quantity not in speeds]
    if missing:
        raise RuntimeError(f"llama-bench gave no {missing[0]}, only {', '.join(map(str, speeds))}")
    return Report({quantity: speeds[quantity] for quantity in wanted}, description)


def _common(task: Task) -> list[str]:
    threads = str(task.settings.num_threads)
    return ["-m", str(task.model), "-t", threads, "-ctk", "f16", "-ctv", "f16", "-o", "json"]


def _speed(row: dict[str, Any]) -> tuple[Quantity, float]:
    figure = "decode" if row["n_gen"] else "prefill"
    return Quantity(figure, row["n_depth"]), median(row["samples_ts"])


def _description(row: dict[str, Any]) -> str:
    flash = FLASH_ATTENTION[int(row["flash_attn"])]
    return (
        f"llama-bench of llama.cpp build {row['build_number']} ({row['build_commit']}), "
        f"{row['backends']}, flash attention {flash}, KV {row['type_k']}/{row['type_v']}"
    )


LLAMA_BENCH = Program(speed_arguments, memory_arguments, read)
