"""Speed and memory of a model: tests as llama-bench names them, each in a process of its own.

It knows the tests and what their figures mean. ``bench_worker`` is the process of one test.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, field
from importlib.metadata import version
from itertools import product
from typing import Any

from edgellama.engine.card.choice import ON_CPU, AttentionChoice
from edgellama.engine.pages.kv_types import KVTypes
from edgellama.engine.program.step_sizes import MAX_STEP_TOKENS
from edgellama.kernels_cpu.machine.cpu import select_tier
from edgellama.measure.child_process import run_in_child
from edgellama.quant.errors import InvalidOptionError
from edgellama.quant.progress import Progress
from edgellama.quant.records import dataclass

WORKER = "edgellama.measure.bench_worker"


@dataclass(frozen=True)
class BenchTest:
    """Tokens of the prompt, tokens generated after it, and tokens in the context before both."""

    num_prompt: int
    num_generated: int
    depth: int = 0

    def __post_init__(self) -> None:
        if min(self.num_prompt, self.num_generated, self.depth) < 0 or not self.num_tokens:
            raise InvalidOptionError(f"impossible test {asdict(self)}; allowed: some tokens")

    @property
    def num_tokens(self) -> int:
        """Tokens that are timed."""
        return self.num_prompt + self.num_generated

    @property
    def name(self) -> str:
        """``pp512``, ``tg128`` or ``pp512+tg128``, with ``@ dN`` at a depth."""
        prompt = f"pp{self.num_prompt}" if self.num_prompt else ""
        generated = f"tg{self.num_generated}" if self.num_generated else ""
        name = "+".join(part for part in (prompt, generated) if part)
        return f"{name} @ d{self.depth}" if self.depth else name


@dataclass(frozen=True)
class BenchSetting:
    """How a model is run; None is the machine's own choice. ``adapters``: files and scales.

    ``draft``: the file of a model that guesses in tests that generate.

    Raises InvalidOptionError, or KernelError for a tier that does not run here.
    """

    path: str
    num_threads: int | None = None
    tier: str | None = None
    kv_types: KVTypes = field(default_factory=lambda: KVTypes("f16", "f16"))
    batch_tokens: int = MAX_STEP_TOKENS
    attention: AttentionChoice = ON_CPU
    adapters: Sequence[tuple[str, float]] = ()
    draft: str | None = None

    def __post_init__(self) -> None:
        if self.tier is not None:
            select_tier(self.tier)
        if not 1 <= self.batch_tokens <= MAX_STEP_TOKENS:
            raise InvalidOptionError(
                f"batches of {self.batch_tokens} tokens; allowed: 1 to {MAX_STEP_TOKENS}"
            )


def all_tests(
    prompts: Iterable[int],
    generated: Iterable[int],
    pairs: Iterable[tuple[int, int]],
    depths: Sequence[int],
) -> list[BenchTest]:
    """Every test at every depth: prompts, then generation, then one after the other; 0 is none."""
    counts = [(count, 0) for count in prompts] + [(0, count) for count in generated] + [*pairs]
    return [BenchTest(*count, depth) for depth in depths for count in counts if any(count)]


def all_settings(path: str, options: Mapping[str, Sequence[Any]]) -> Iterator[BenchSetting]:
    """A setting for every combination of the fields' values."""
    for values in product(*options.values()):
        yield BenchSetting(path, **dict(zip(options, values, strict=True)))


def run_test(
    setting: BenchSetting, test: BenchTest, repetitions: int, progress: Progress | None = None
) -> dict[str, Any]:
    """The row of one test: settings, mean and deviation, and what it took of the machine.

    ``progress`` hears of (repetitions done, all). Raises what loading and running raise.
    """
    request = {**asdict(setting), **asdict(test), "repetitions": repetitions}
    found = run_in_child(WORKER, request, progress)
    if found["num_compiled"]:
        # Start-up and memory of the first run ever are the compiler's.
        found = run_in_child(WORKER, request, progress)
    return _row(setting, test, found)


def _row(setting: BenchSetting, test: BenchTest, found: Mapping[str, Any]) -> dict[str, Any]:
    seconds: Sequence[float] = found["seconds"]
    speeds = [test.num_tokens / s for s in seconds]
    row = {
        "test": test.name,
        "adapters": " ".join(f"{path}:{scale:g}" for path, scale in setting.adapters),
        "draft": setting.draft or "",
        "tokens_per_second": statistics.fmean(speeds),
        "stddev": statistics.stdev(speeds) if len(speeds) > 1 else 0.0,
        "model": setting.path,
        "type": found["type"],
        "size_bytes": found["model_bytes"],
        "parameters": found["parameters"],
        "edgellama_version": version("edgellama"),
        "cpu": found["cpu"],
        "num_threads": found["num_threads"],
        "tier": found["tier"],
        "batch_tokens": setting.batch_tokens,
        "key_type": setting.kv_types.keys,
        "value_type": setting.kv_types.values,
        "attention": setting.attention.mode,
        "num_prompt": test.num_prompt,
        "num_generated": test.num_generated,
        "depth": test.depth,
        "peak_memory_bytes": found["peak_memory_bytes"],
        "kv_bytes": found["kv_bytes"],
        "card_bytes": found["card_bytes"],
        "start_seconds": found["start_seconds"],
    }
    guesses = {name: found[name] for name in ("drafted_tokens", "accepted_tokens")}
    return row | _rates(test, found, seconds) | guesses | {"samples": speeds}


def _rates(
    test: BenchTest, found: Mapping[str, Any], seconds: Sequence[float]
) -> dict[str, float | None]:
    """Bytes a second of decode beside those of a plain read; multiply-adds a second of prefill."""
    mean_seconds = statistics.fmean(seconds)
    plain = found["plain_bytes"] / statistics.fmean(found["plain_seconds"]) / 1e9
    is_counted = not test.num_prompt and found["num_bytes"]
    decode = found["num_bytes"] / mean_seconds / 1e9 if is_counted else None
    prefill = None if test.num_generated else found["num_macs"] / mean_seconds / 1e9
    return {
        "decode_gb_per_second": decode,
        "plain_read_gb_per_second": plain,
        "bandwidth_share": None if decode is None else decode / plain,
        "prefill_gmac_per_second": prefill,
    }
