"""ik_llama.cpp's llama-sweep-bench: its command line and its lines of JSON.

It walks the context in steps of the prompt's size and measures both speeds at each, in one
process; so depths are multiples of the prompt. The lines come on standard error, among others,
and a file ``llama.log`` stays behind in the current folder.
"""

from __future__ import annotations

import json
import re
from typing import Any

from comparison.engine import Program, Report, Task
from comparison.figures import Quantity
from comparison.results import Settings

ROW = re.compile(r'\{"n_kv_max".*\}')


def check(settings: Settings) -> None:
    """Refuse what the program cannot measure; RuntimeError."""
    step = settings.prompt_tokens
    for depth in settings.depths:
        if depth % step:
            raise RuntimeError(f"a depth of {depth} for sweep-bench; allowed: multiples of {step}")
    if settings.decode_tokens > step:
        raise RuntimeError(
            f"decoding {settings.decode_tokens} tokens with sweep-bench; allowed: up to {step}"
        )


def speed_arguments(task: Task) -> list[str]:
    """A sweep up to the deepest test, after a batch to warm up."""
    return _arguments(task, task.settings.decode_tokens)


def memory_arguments(task: Task) -> list[str]:
    """The same sweep with hardly any decoding."""
    return _arguments(task, 1)


def read(output: str, errors: str, task: Task) -> Report:
    """The rows at the depths that were asked for."""
    rows = {row["n_kv"]: row for row in map(json.loads, ROW.findall(output + errors))}
    settings = task.settings
    speeds = {}
    for depth in settings.depths:
        if depth not in rows:
            raise RuntimeError(f"sweep-bench gave nothing at a depth of {depth}, only {[*rows]}")
        row = rows[depth]
        sizes = (row["pp"], row["tg"])
        if sizes != (settings.prompt_tokens, settings.decode_tokens):
            raise RuntimeError(
                f"sweep-bench measured {sizes[0]} and {sizes[1]} tokens; allowed: "
                f"{settings.prompt_tokens} and {settings.decode_tokens} (builds before "
                "November 2025 decode a quarter of the prompt: give that as --decode-tokens)"
            )
        speeds[Quantity("prefill", depth)] = row["speed_pp"]
        speeds[Quantity("decode", depth)] = row["speed_tg"]
    return Report(speeds, _description(rows[settings.depths[0]]))


def _arguments(task: Task, decode_tokens: int) -> list[str]:
    settings = task.settings
    return [
        *("-m", str(task.model), "-t", str(settings.num_threads)),
        *("-c", str(settings.context_length), "-ub", str(settings.prompt_tokens)),
        *("-n", str(decode_tokens), "-ctk", "f16", "-ctv", "f16"),
        *("--warmup-batch", "--output-format", "jsonl"),
    ]


def _description(row: dict[str, Any]) -> str:
    flash = "on" if row["flash_attn"] else "off"
    return f"llama-sweep-bench, flash attention {flash}, KV f16"


SWEEP_BENCH = Program(speed_arguments, memory_arguments, read)
