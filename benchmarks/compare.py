"""Measures edgellama and llama.cpp side by side on the same models; prints a Markdown table.

Every measurement is a fresh process; the engines alternate, and each round's two are compared
with each other, because a laptop's speed drifts. Without ``--peer-python`` (an interpreter with
llama-cpp-python) edgellama runs alone. POSIX only; needs nothing outside the standard library.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

from processes import BUSY_CPUS, Finished, run_child, run_undisturbed

HERE = Path(__file__).resolve().parent
START_PROMPTS = ("The capital of France is", "The capital of France", "The capital of")
START_TOKENS = 5


@dataclass(frozen=True)
class Figure:
    """A row of the table: how to write one engine's value and which way is better."""

    name: str
    unit: str
    scale: float
    more_is_better: bool


FIGURES = {
    "prefill_tokens_per_second": Figure("prefill", "tokens/s", 1, True),
    "decode_tokens_per_second": Figure("decode", "tokens/s", 1, True),
    "first_token_s": Figure("start to first token", "s", 1, False),
    "first_token_command_s": Figure(
        "start to first token, against its command line", "s", 1, False
    ),
    "peak_memory_bytes": Figure("peak memory", "MB", 1e-6, False),
}


@dataclass
class Samples:
    """What one engine gave on one model: values by figure, one a round, and who it was."""

    values: dict[str, list[float]] = field(default_factory=dict)
    other_cpus: list[float] = field(default_factory=list)
    description: dict[str, str] = field(default_factory=dict)

    def add(self, key: str, value: float, child: Finished) -> None:
        """Keep one round's value."""
        self.values.setdefault(key, []).append(value)
        self.other_cpus.append(child.other_cpus)


Measurement = Callable[[Samples], None]


def main() -> None:
    """Measure every model and print the table; ``--json`` keeps every single value."""
    options = read_options()
    results = {}
    for model in options.models:
        results[model.name] = measure_model(model, options)
        print(table(model.name, results[model.name]), flush=True)
    if options.json:
        plain = {
            name: {engine: asdict(samples) for engine, samples in engines.items()}
            for name, engines in results.items()
        }
        options.json.write_text(json.dumps(plain, indent=1) + "\n", "utf-8")


def read_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", type=Path, help="GGUF files")
    parser.add_argument("--peer-python", help="interpreter with llama-cpp-python")
    parser.add_argument(
        "--peer-command",
        help="llama.cpp command line that writes one greedy token, with {model} and {prompt}",
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=1, help="per round, in one process")
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--decode-tokens", type=int, default=64)
    parser.add_argument(
        "--patience",
        type=float,
        default=0,
        help="seconds that each measurement may wait, or be repeated, for a quiet machine",
    )
    parser.add_argument("--json", type=Path, help="file for every value")
    return parser.parse_args()


def measure_model(model: Path, options: argparse.Namespace) -> dict[str, Samples]:
    """Samples by engine name."""
    prompt = start_prompt(model)
    plans = {"edgellama": edgellama_plan(model, prompt, options)}
    if options.peer_python:
        plans["llama.cpp"] = peer_plan(model, prompt, options)
    results = {name: Samples() for name in plans}
    for round_number in range(-1, options.rounds):
        order = list(plans) if round_number % 2 else list(reversed(plans))
        for step in range(max(map(len, plans.values()))):
            for name in order:
                # The round before the first only warms caches and compiles.
                target = Samples() if round_number < 0 else results[name]
                for measure in plans[name][step : step + 1]:
                    measure(target)
                    last = {key: round(values[-1], 3) for key, values in target.values.items()}
                    print(f"round {round_number + 1}, {name}: {last}", file=sys.stderr, flush=True)
    return results


def start_prompt(model: Path) -> str:
    """A prompt of START_TOKENS tokens, BOS included."""
    for text in START_PROMPTS:
        ids = json.loads(run_child([*edgellama("tokenize", model), text, "--json"]).output)
        if len(ids) == START_TOKENS:
            return text
    raise RuntimeError(f"none of the prompts has {START_TOKENS} tokens in {model}")


def edgellama(command: str, model: Path) -> list[str]:
    """The start of an edgellama command line."""
    return [sys.executable, "-m", "edgellama", command, str(model)]


def edgellama_plan(model: Path, prompt: str, options: argparse.Namespace) -> list[Measurement]:
    """edgellama's measurements of one round."""
    generate = [
        *edgellama("generate", model),
        *("-p", prompt, "-n", "1", "--temperature", "0"),
        *("-t", str(options.threads), "-c", str(options.context)),
    ]
    plan = [
        speed_and_memory(sys.executable, "run_edgellama.py", model, options),
        first_token(generate, "first_token_s", options),
    ]
    if options.peer_command:
        plan.append(first_token(generate, "first_token_command_s", options))
    return plan


def peer_plan(model: Path, prompt: str, options: argparse.Namespace) -> list[Measurement]:
    """llama.cpp's measurements of one round."""
    script = [
        *(options.peer_python, str(HERE / "run_llama_cpp.py"), str(model)),
        *("--first-token", prompt, str(options.threads), str(options.context)),
    ]
    plan = [
        speed_and_memory(options.peer_python, "run_llama_cpp.py", model, options),
        first_token(script, "first_token_s", options),
    ]
    if options.peer_command:
        words = shlex.split(options.peer_command)
        command = [word.format(model=model, prompt=prompt) for word in words]
        plan.append(first_token(command, "first_token_command_s", options))
    return plan


def speed_and_memory(
    python: str, script: str, model: Path, options: argparse.Namespace
) -> Measurement:
    """A worker's speeds, and the peak memory of its process."""
    command = [python, str(HERE / script), str(model)]
    for option in ("threads", "context", "prompt_tokens", "decode_tokens", "repeats"):
        command += [f"--{option.replace('_', '-')}", str(getattr(options, option))]

    def measure(samples: Samples) -> None:
        child = run_undisturbed(command, options.patience)
        report = json.loads(child.output.strip().splitlines()[-1])
        samples.description = report["description"]
        for key in ("prefill_tokens_per_second", "decode_tokens_per_second"):
            samples.add(key, report[key], child)
        samples.add("peak_memory_bytes", child.peak_memory_bytes, child)

    return measure


def first_token(command: list[str], key: str, options: argparse.Namespace) -> Measurement:
    """Seconds from before the process starts to its first byte on standard output."""

    def measure(samples: Samples) -> None:
        child = run_undisturbed(command, options.patience)
        samples.add(key, child.first_output_s, child)

    return measure


def table(model_name: str, engines: dict[str, Samples]) -> str:
    """Medians in Markdown; ratios are edgellama's value over llama.cpp's, round by round."""
    ours, peer = engines["edgellama"], engines.get("llama.cpp")
    lines = [f"### {model_name}", ""]
    lines += [f"- {name}: {text}" for name, text in descriptions(engines.values())]
    lines += [
        "",
        "| figure | edgellama | llama.cpp | ratio | rounds from-to |",
        "|---|---|---|---|---|",
    ]
    for key, figure in FIGURES.items():
        if key in ours.values:
            lines.append(row(figure, ours.values[key], peer.values.get(key) if peer else None))
    other = [cpus for samples in engines.values() for cpus in samples.other_cpus]
    busy = sum(cpus > BUSY_CPUS for cpus in other)
    lines += [
        "",
        f"Other processes kept {median(other):.2f} cores busy (at most {max(other):.2f}); "
        f"{busy} of {len(other)} values are doubtful for that.",
    ]
    return "\n".join([*lines, ""])


def descriptions(engines: Iterable[Samples]) -> Iterable[tuple[str, str]]:
    """(engine and version, its build)."""
    for samples in engines:
        yield samples.description["engine"], samples.description["build"]


def row(figure: Figure, ours: list[float], peer: list[float] | None) -> str:
    """One line of the table."""
    cells = [f"{figure.name}, {figure.unit}", number(median(ours) * figure.scale)]
    if peer is None:
        return f"| {' | '.join([*cells, '', '', ''])} |"
    ratios = sorted(own / other for own, other in zip(ours, peer, strict=True))
    better = (median(ratios) > 1) == figure.more_is_better
    cells += [
        number(median(peer) * figure.scale),
        f"{median(ratios):.2f}x {'better' if better else 'worse'}",
        f"{ratios[0]:.2f}-{ratios[-1]:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def number(value: float) -> str:
    """Three significant digits, or whole numbers."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    main()
