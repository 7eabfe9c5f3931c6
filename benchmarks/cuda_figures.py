"""Single figures of attention on a graphics card, each in a process of its own.

    python benchmarks/cuda_figures.py decode model.gguf '{"kv_type": "f16", "depth": 8192}'

prints a line of JSON for each number as soon as it is there, so that whoever waits keeps what was
found before an error or the end of patience. ``cuda_attention.py`` runs them all.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from card_layers import OnCard, attention_bytes, opened

from edgellama.engine.card.choice import ON_CPU, AttentionChoice
from edgellama.engine.pages.kv_types import KVTypes
from edgellama.engine.running.step_timer import StepTimer
from edgellama.measure.op_profile import profile_step

ON_CARD = AttentionChoice("cuda")
TOLERANCE = 0.02
"""Of logits, as a share of their deviation: tiles of many tokens have 16-bit weights."""
BANDWIDTH_GOAL, GOAL_DEPTH = 0.8, 8192
LIBRARY_GOAL = 0.4
FLASH_ROUNDS = 10
PIECE_TOKENS = 16
"""Of a chat's next turn."""
Row = dict[str, Any]


def ready(path: str, kv_types: Sequence[str]) -> Iterator[Row]:
    """The time until everything is compiled, and what each kernel takes of a multiprocessor."""
    for kv_type in kv_types:
        started = time.perf_counter()
        with opened(path, ON_CPU, kv_type), opened(path, ON_CARD, kv_type) as model:
            functions = model.kernels()
        yield {"kv_type": kv_type, "seconds": time.perf_counter() - started, "is_met": None}
        for function in functions:
            yield {"kernel": function.name, "registers": function.num_registers,
                   "local_bytes": function.local_bytes,
                   "is_met": function.local_bytes == 0}  # fmt: skip


def check(path: str, kv_type: str, tokens: int = 700, steps: int = 24) -> Iterator[Row]:
    """Logits and greedy tokens of the same text on both."""
    texts = []
    for choice in (ON_CPU, ON_CARD):
        with opened(path, choice, kv_type) as model:
            texts.append(greedy(model, tokens, steps))
    (own, own_logits), (other, other_logits) = texts
    difference = float(np.abs(own_logits - other_logits).max() / own_logits.std())
    same = sum(a == b for a, b in zip(own, other, strict=True))
    yield {"logit_difference": difference, "same_tokens": same, "tokens": len(own),
           "is_met": difference <= TOLERANCE}  # fmt: skip


def greedy(model: OnCard, num_tokens: int, num_steps: int) -> tuple[list[int], Any]:
    """A text's next tokens, and the logits before the first of them."""
    engine = model.engine
    rng = np.random.default_rng(0)
    cache = engine.new_cache(num_tokens + num_steps)
    prompt = rng.integers(0, engine.config.vocab_size, num_tokens).astype(np.int32)
    first = logits = engine.forward(prompt, cache)
    tokens: list[int] = []
    for _ in range(num_steps):
        tokens.append(int(logits[0].argmax()))
        logits = engine.forward(tokens[-1:], cache)
    return tokens, first[0].astype(np.float64)


def decode(path: str, kv_type: str, depth: int, rounds: int = 20) -> Iterator[Row]:
    """The card's time of one token's attention in a layer."""
    with opened(path, ON_CARD, kv_type) as model:
        cache = model.hollow_cache(depth, 1, kv_type)
        seconds = model.launch_seconds(cache, "few", 1, rounds)
        row = bandwidth(model, attention_bytes(cache, depth + 1), seconds)
        if row["bandwidth_share"] is not None and depth >= GOAL_DEPTH:
            row["is_met"] = row["bandwidth_share"] >= BANDWIDTH_GOAL
        yield row
        cache.close()


def piece(path: str, kv_type: str, depth: int, rounds: int = 20) -> Iterator[Row]:
    """The same of a short piece of a prompt, whose keys are split among blocks."""
    with opened(path, ON_CARD, kv_type) as model:
        cache = model.hollow_cache(depth, PIECE_TOKENS, kv_type)
        seconds = model.launch_seconds(cache, "many", PIECE_TOKENS, rounds)
        row = bandwidth(model, attention_bytes(cache, depth + PIECE_TOKENS), seconds)
        yield row | {"tokens": PIECE_TOKENS}
        cache.close()


def bandwidth(model: OnCard, num_bytes: float, seconds: float) -> Row:
    """How fast keys and values were read, beside what the card's memory gives."""
    peak = model.device.card.bytes_per_second
    return {"microseconds": 1e6 * seconds, "gb_per_second": num_bytes / seconds / 1e9,
            "bandwidth_share": num_bytes / seconds / peak if peak else None,
            "is_met": None}  # fmt: skip


def prefill(
    path: str, kv_type: str, depth: int, prompt: int = 512, rounds: int = 20
) -> Iterator[Row]:
    """Multiply-adds of attention of a prompt's step in a layer, then those of a library."""
    with opened(path, ON_CARD, kv_type) as model:
        config, count = model.engine.config, min(prompt, model.engine.step_tokens, depth)
        cache = model.hollow_cache(depth - count, count, kv_type)
        seconds = model.launch_seconds(cache, "many", count, rounds)
        cache.close()
    key_tflops = 4.0 * config.query_length * count / 1e12
    tflops = key_tflops * (depth - (count - 1) / 2) / seconds
    yield {"tokens": count, "microseconds": 1e6 * seconds, "tflops": tflops, "is_met": None}
    found = flash_seconds(config, count, depth)
    if isinstance(found, str):
        yield {"library": found, "is_met": None}
    else:
        library = key_tflops * depth / found
        yield {"library_tflops": library, "library_share": tflops / library,
               "is_met": tflops >= LIBRARY_GOAL * library}  # fmt: skip


def flash_seconds(config: Any, num_tokens: int, num_keys: int) -> float | str:
    """The time of torch's flash attention of one layer on the same card, without a mask.

    In words why there is none.
    """
    try:
        import torch
        from torch.nn.attention import SDPBackend, sdpa_kernel
    except ImportError as error:
        return f"no flash attention to compare with: {error}"
    if not torch.cuda.is_available():
        return "no flash attention to compare with: this torch knows no card"

    def rows(heads: int, count: int) -> Any:
        return torch.randn(1, heads, count, config.head_size, dtype=torch.float16, device="cuda")

    attend, event = torch.nn.functional.scaled_dot_product_attention, torch.cuda.Event
    try:
        q, k, v = (rows(config.head_count, n) for n in (num_tokens, num_keys, num_keys))
        start, end = (event(enable_timing=True) for _ in range(2))
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            attend(q, k, v)
            start.record()
            for _ in range(FLASH_ROUNDS):
                attend(q, k, v)
            end.record()
        torch.cuda.synchronize()
    except RuntimeError as error:  # It has no kernel for this card, or no memory.
        return f"torch's flash attention failed: {str(error).splitlines()[0]}"
    return float(start.elapsed_time(end)) / 1e3 / FLASH_ROUNDS


def bus(path: str, depth: int, rounds: int = 20) -> Iterator[Row]:
    """A layer's attention in a step beside its kernels' own time."""
    timer = StepTimer()
    with opened(path, ON_CARD, "f16", timer) as model:
        cache = model.hollow_cache(depth, 2, "f16")
        kernels = sum(model.launch_seconds(cache, name, 1, rounds) for name in ("store", "few"))
        times = profile_step(model.engine, timer, cache, num_tokens=1, repetitions=rounds)
        steps = [time.seconds for time in times if time.kernel == "attend_on_card"]
        seconds = float(np.median(steps))
        yield {"layer_microseconds": 1e6 * seconds, "kernel_microseconds": 1e6 * kernels,
               "bus_microseconds": 1e6 * (seconds - kernels), "is_met": None}  # fmt: skip


def switch(path: str) -> Iterator[Row]:
    """From how many tokens on a text is attended on the card by itself; None for never."""
    with opened(path, ON_CARD, "f16") as model:
        placement = model.engine.card_placement
        assert placement is not None and placement.made is not None
        found = placement.made._measure(model.device, KVTypes.of("f16"))
        yield {"switching_depth": found, "is_met": None}


def end(
    path: str, attention: str, depth: int, prompt: int = 512, rounds: int = 10
) -> Iterator[Row]:
    """A whole token's time, then that of a whole step of a prompt, behind ``depth`` tokens."""
    choice = ON_CPU if attention == "cpu" else ON_CARD
    with opened(path, choice, "f16") as model:
        engine = model.engine
        cache = model.hollow_cache(depth, engine.step_tokens + 1, "f16")
        for step, count, repetitions in (
            ("decode", 1, rounds),
            ("prefill", min(prompt, engine.step_tokens), 2),
        ):
            times = []
            for _ in range(repetitions + 1):
                started = time.perf_counter()
                engine.forward([1] * count, cache)
                times.append(time.perf_counter() - started)
                cache.truncate(depth)
            milliseconds = 1e3 * float(np.median(times[1:]))
            yield {"step": step, "tokens": count, "milliseconds": milliseconds, "is_met": None}
        cache.close()


FIGURES: dict[str, Callable[..., Iterator[Row]]] = {
    figure.__name__: figure for figure in (ready, check, decode, piece, prefill, bus, switch, end)
}


def main(arguments: Sequence[str]) -> None:
    """Print the rows of one figure."""
    name, path, options = arguments[0], arguments[1], json.loads(arguments[2])
    for row in FIGURES[name](path, **options):
        whose = {"part": name, "model": Path(path).stem, **options}
        print(json.dumps(whose | row), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
