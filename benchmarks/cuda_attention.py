"""All that is to be measured of attention on a graphics card, in one command.

    python benchmarks/cuda_attention.py --output card.json

writes random models of the sizes of Llama 3.2 1B and 3.1 8B (or takes ``--models``) and measures:

- check: whether texts are those of the CPU, for every type of keys and values; NVIDIA's
  ``compute-sanitizer`` runs this part again, where it is installed;
- decode: the share of the card's bandwidth that attention of one token reaches;
- prefill: multiply-adds of attention of many tokens, beside flash attention of torch if it is here;
- bus: what a layer's attention costs beside its kernels;
- end: a token's and a prompt's time beside the CPU's attention, at every depth.

Without a card it says so and measures nothing.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from card_layers import OnCard, attention_bytes, opened
from random_model import write_model

from edgellama.cuda.cards import Card, choose_card
from edgellama.cuda.driver import Driver, version_text
from edgellama.engine.card.choice import ON_CPU, AttentionChoice
from edgellama.engine.kv_types import KVTypes
from edgellama.engine.step_timer import StepTimer
from edgellama.kernels_cpu.signatures import CACHE_TYPES
from edgellama.measure.model_presets import MODEL_PRESETS
from edgellama.measure.op_profile import profile_step
from edgellama.quant.errors import CudaError, EdgellamaError

ON_CARD = AttentionChoice("cuda")
SIZES = ("llama-3.2-1b", "llama-3.1-8b")
DEPTHS = (4096, 8192, 32768, 131072)
CHECKED_TOKENS, CHECKED_STEPS = 700, 24
TOLERANCE = 0.02
"""Of logits, as a share of their deviation: tiles of many tokens have 16-bit weights."""
GOALS = {("decode", 8192): 0.8, ("llama-3.2-1b", 32768): 1.5, ("llama-3.2-1b", 131072): 2.5}
"""Shares of bandwidth from a depth on; speed beside the CPU's attention."""
FLASH_ROUNDS = 10
Row = dict[str, Any]


def check(path: str, options: argparse.Namespace) -> Iterator[Row]:
    """Logits and greedy tokens of the same text on both."""
    for kv_type in options.kv:
        texts = []
        for choice in (ON_CPU, ON_CARD):
            with opened(path, choice, kv_type) as model:
                texts.append(greedy(model, options.check_tokens, options.check_steps))
        (own, own_logits), (other, other_logits) = texts
        difference = float(np.abs(own_logits - other_logits).max() / own_logits.std())
        same = sum(a == b for a, b in zip(own, other, strict=True))
        yield {"part": "check", "kv_type": kv_type, "logit_difference": difference,
               "same_tokens": same, "tokens": len(own),
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


def sanitized(path: str, options: argparse.Namespace) -> Iterator[Row]:
    """The check under NVIDIA's tool, which finds wrong addresses and races."""
    for tool in ("memcheck", "racecheck", "synccheck"):
        row: Row = {"part": "sanitizer", "tool": tool}
        if shutil.which("compute-sanitizer") is None:
            yield row | {"result": "compute-sanitizer is not installed", "is_met": None}
            continue
        command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", sys.executable,
                   __file__, "--models", path, "--parts", "check", "--check-tokens", "150",
                   "--check-steps", "4"]  # fmt: skip
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        yield row | {"result": result.stdout[-400:], "is_met": result.returncode == 0}


def decode(path: str, options: argparse.Namespace) -> Iterator[Row]:
    """The card's time of one token's attention in a layer."""
    for kv_type in options.kv:
        with opened(path, ON_CARD, kv_type) as model:
            for depth in options.depths:
                cache = model.hollow_cache(depth, 1, kv_type)
                seconds = model.launch_seconds(cache, "few", 1, options.rounds)
                rate = attention_bytes(cache, depth + 1) / seconds
                peak = model.device.card.bytes_per_second
                share = rate / peak if peak else 0.0
                goal = GOALS["decode", 8192] if peak and depth >= 8192 else None
                yield {"part": "decode", "kv_type": kv_type, "depth": depth,
                       "microseconds": 1e6 * seconds, "gb_per_second": rate / 1e9,
                       "bandwidth_share": share, "goal": goal,
                       "is_met": None if goal is None else share >= goal}  # fmt: skip
                cache.close()


def prefill(path: str, options: argparse.Namespace) -> Iterator[Row]:
    """Multiply-adds of attention of a prompt's step in a layer."""
    for kv_type in options.kv:
        with opened(path, ON_CARD, kv_type) as model:
            config, count = model.engine.config, min(options.prompt, model.engine.step_tokens)
            for depth in options.depths:
                cache = model.hollow_cache(depth - count, count, kv_type)
                seconds = model.launch_seconds(cache, "many", count, options.rounds)
                key_tflops = 4.0 * config.query_length * count / 1e12
                library = flash_seconds(config, count, depth)
                row: Row = {"part": "prefill", "kv_type": kv_type, "depth": depth,
                            "tokens": count, "microseconds": 1e6 * seconds,
                            "tflops": key_tflops * (depth - (count - 1) / 2) / seconds,
                            "library_tflops": None, "is_met": None}  # fmt: skip
                if library is not None:
                    row["library_tflops"] = key_tflops * depth / library
                    row["is_met"] = row["tflops"] >= 0.4 * row["library_tflops"]
                yield row
                cache.close()


def flash_seconds(config: Any, num_tokens: int, num_keys: int) -> float | None:
    """The time of torch's flash attention of one layer on the same card, without a mask."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def rows(heads: int, count: int) -> Any:
        return torch.randn(1, heads, count, config.head_size, dtype=torch.float16, device="cuda")

    q, k, v = (rows(config.head_count, n) for n in (num_tokens, num_keys, num_keys))
    attend, event = torch.nn.functional.scaled_dot_product_attention, torch.cuda.Event
    start, end = (event(enable_timing=True) for _ in range(2))
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        attend(q, k, v)
        start.record()
        for _ in range(FLASH_ROUNDS):
            attend(q, k, v)
        end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1e3 / FLASH_ROUNDS


def bus(path: str, options: argparse.Namespace) -> Iterator[Row]:
    """A layer's attention in a step beside its kernels' own time."""
    depth, timer = min(options.depths), StepTimer()
    with opened(path, ON_CARD, "f16", timer) as model:
        cache = model.hollow_cache(depth, 2, "f16")
        kernels = sum(model.launch_seconds(cache, name, 1, options.rounds)
                      for name in ("store", "few"))  # fmt: skip
        times = profile_step(model.engine, timer, cache, num_tokens=1, repetitions=options.rounds)
        steps = [time.seconds for time in times if time.kernel == "attend_on_card"]
        seconds = float(np.median(steps))
        yield {"part": "bus", "depth": depth, "layer_microseconds": 1e6 * seconds,
               "kernel_microseconds": 1e6 * kernels,
               "bus_microseconds": 1e6 * (seconds - kernels), "is_met": None}  # fmt: skip


def end(path: str, options: argparse.Namespace) -> Iterator[Row]:
    """A whole token's time, and a whole step of a prompt, on both."""
    name, switch = Path(path).stem, switching_depth(path)
    yield {"part": "end", "switching_depth": switch, "is_met": None}
    for depth in options.depths:
        found: dict[str, dict[str, float]] = {}
        for choice in (ON_CPU, ON_CARD):
            with opened(path, choice, "f16") as model:
                found[choice.mode] = dict(step_seconds(model, depth, options))
        for kind in ("decode", "prefill"):
            times = found["cpu"][kind], found["cuda"][kind]
            gain = times[0] / times[1]
            goal = None
            if kind == "decode" and switch is not None and depth >= switch:
                goal = GOALS.get((name, depth), 1.0)
            yield {"part": "end", "model": name, "depth": depth, "step": kind,
                   "cpu_milliseconds": 1e3 * times[0], "card_milliseconds": 1e3 * times[1],
                   "gain": gain, "goal": goal,
                   "is_met": None if goal is None else gain >= goal}  # fmt: skip


def switching_depth(path: str) -> int | None:
    """From how many tokens on a text is attended on the card by itself; None for never."""
    with opened(path, ON_CARD, "f16") as model:
        placement = model.engine.card_placement
        assert placement is not None
        return placement._measure(model.device, KVTypes.of("f16"))


def step_seconds(
    model: OnCard, depth: int, options: argparse.Namespace
) -> Iterator[tuple[str, float]]:
    """The median time of steps behind ``depth`` tokens."""
    engine = model.engine
    cache = model.hollow_cache(depth, engine.step_tokens + 1, "f16")
    for kind, count, rounds in (
        ("decode", 1, options.rounds),
        ("prefill", min(options.prompt, engine.step_tokens), 3),
    ):
        times = []
        for _ in range(rounds + 1):
            started = time.perf_counter()
            engine.forward([1] * count, cache)
            times.append(time.perf_counter() - started)
            cache.truncate(depth)
        yield kind, float(np.median(times[1:]))
    cache.close()


PARTS: dict[str, Callable[[str, argparse.Namespace], Iterator[Row]]] = {
    "check": check,
    "sanitizer": sanitized,
    "decode": decode,
    "prefill": prefill,
    "bus": bus,
    "end": end,
}


def measured(name: str, path: str, options: argparse.Namespace) -> Iterator[Row]:
    """The figures of a part, up to where the machine can do no more."""
    try:
        yield from PARTS[name](path, options)
    except EdgellamaError as error:
        yield {"part": name, "result": str(error), "is_met": None}


def models_of(options: argparse.Namespace, folder: Path) -> list[str]:
    """The files to measure with; random ones are written where none are given."""
    if options.models:
        return list(options.models)
    paths = [folder / f"{size}.gguf" for size in SIZES]
    for size, path in zip(SIZES, paths, strict=True):
        print(f"writing a random {size} in {options.type}", file=sys.stderr, flush=True)
        write_model(path, MODEL_PRESETS[size], options.type, None, 0)
    return list(map(str, paths))


def described(card: Card, driver: Driver) -> Row:
    """The card that measured."""
    return {"part": "card", "name": card.name, "capability": card.architecture,
            "driver": version_text(driver.version), "total_bytes": card.total_bytes,
            "peak_gb_per_second": card.bytes_per_second / 1e9}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line of JSON for each figure; the exit code is 1 without a card or below a goal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", metavar="FILE", help="else random ones are written")
    parser.add_argument("--parts", default=",".join(PARTS), help="which, with commas between")
    parser.add_argument("--depths", default=",".join(map(str, DEPTHS)), help="tokens before")
    parser.add_argument("--kv", default=",".join(CACHE_TYPES), help="types of keys and values")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of a step of a prompt")
    parser.add_argument("--rounds", type=int, default=20, help="of each measurement")
    parser.add_argument("--type", default="q4_0", help="of random models' weights")
    parser.add_argument("--check-tokens", type=int, default=CHECKED_TOKENS)
    parser.add_argument("--check-steps", type=int, default=CHECKED_STEPS)
    parser.add_argument("--output", type=Path, help="a file for all figures as JSON")
    options = parser.parse_args(arguments)
    options.kv = options.kv.split(",")
    options.depths = [int(depth) for depth in options.depths.split(",")]
    try:
        driver = Driver.load()
        card = choose_card(driver)
    except CudaError as error:
        print(f"no card, so nothing was measured: {error}", file=sys.stderr)
        return 1
    rows = [described(card, driver)]
    print(json.dumps(rows[0]), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for number, path in enumerate(models_of(options, Path(folder))):
            for name in options.parts.split(","):
                # Kernels alone do not depend on the rest of a model: one shape says it.
                if number and name in ("check", "sanitizer"):
                    continue
                for row in measured(name, path, options):
                    rows.append({"model": Path(path).stem} | row)
                    print(json.dumps(rows[-1]), flush=True)
    if options.output:
        options.output.write_text(json.dumps(rows, indent=1), "utf-8")
    missed = [row for row in rows if row.get("is_met") is False]
    print(f"{len(rows) - 1} figures, {len(missed)} below their goal", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
