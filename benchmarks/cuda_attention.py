"""All that is to be measured of attention on a graphics card, in one command.

    python benchmarks/cuda_attention.py --output card.json

writes random models of the sizes of Llama 3.2 1B and 3.1 8B (or takes ``--models``) and measures,
what matters most first:

- ready: compiles all that the rest needs, and tells what the driver's compiler made of kernels: no
  registers should be spilled to memory;
- check: whether texts are those of the CPU, for every type of keys and values; NVIDIA's
  ``compute-sanitizer`` runs this part again, where it is installed;
- decode: the share of the card's bandwidth that attention of one token reaches;
- piece: the same of 16 tokens behind many, a chat's next turn;
- prefill: multiply-adds of attention of many tokens, beside flash attention of torch if it is here;
- bus: what a layer's attention costs beside its kernels;
- switch, end: from which length on a card is used by itself; a token's and a prompt's time beside
  the CPU's attention, at every depth.

Each figure is taken by a process of its own (``cuda_figures.py``), which may fail or be ended after
``--limit`` seconds (but for compiling); all end after ``--total``. The file is written anew after
each. Without a card it says so and measures nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from random_model import write_model

from edgellama.cuda.cards import Card, choose_card
from edgellama.cuda.driver import Driver, version_text
from edgellama.kernels_cpu.signatures import CACHE_TYPES
from edgellama.measure.model_presets import MODEL_PRESETS
from edgellama.quant.errors import CudaError

FIGURES = Path(__file__).parent / "cuda_figures.py"
SIZES = ("llama-3.2-1b", "llama-3.1-8b")
DEPTHS = (4096, 8192, 32768, 131072)
GAIN_GOALS = {("llama-3.2-1b", 32768): 1.5, ("llama-3.2-1b", 131072): 2.5}
"""Speed of a token beside the CPU's attention; 1 elsewhere from the switching depth on."""
PARTS = ("ready", "check", "decode", "bus", "switch", "end", "piece", "prefill", "sanitizer")
TOOLS = ("memcheck", "racecheck", "synccheck")
SANITIZER = "compute-sanitizer"
OTHER_KV_TYPES = ("f16", "q8_0")
"""Of models after the first: kernels depend on a model's heads alone."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Figure:
    """What one process measures; ``tool`` runs it under NVIDIA's tool."""

    part: str
    path: str
    options: dict[str, Any] = field(default_factory=dict)
    tool: str | None = None

    @property
    def row(self) -> Row:
        """What all its rows say."""
        part = "sanitizer" if self.tool else self.part
        tool = {"tool": self.tool} if self.tool else {}
        return {"part": part, "model": Path(self.path).stem, **self.options, **tool}

    @property
    def command(self) -> list[str]:
        """The process."""
        own = [sys.executable, str(FIGURES), self.part, self.path, json.dumps(self.options)]
        return [SANITIZER, "--tool", self.tool, "--error-exitcode", "9", *own] if self.tool else own


def figures_of(path: str, options: argparse.Namespace, *, is_first: bool) -> Iterator[Figure]:
    """The figures of a model, in the order of PARTS."""
    types = options.kv if is_first else [kind for kind in options.kv if kind in OTHER_KV_TYPES]
    rounds = {"rounds": options.rounds}
    short = {"tokens": options.check_tokens, "steps": options.check_steps}
    for part in options.parts:
        if part == "ready":
            yield Figure(part, path, {"kv_types": types})
        elif part == "check" and is_first:
            yield from (Figure(part, path, {"kv_type": kind, **short}) for kind in types)
        elif part == "sanitizer" and is_first:
            tiny = {"kv_type": "f16", "tokens": min(150, options.check_tokens), "steps": 3}
            yield from (Figure("check", path, tiny, tool) for tool in TOOLS)
        elif part in ("decode", "piece", "prefill"):
            more = rounds | ({"prompt": options.prompt} if part == "prefill" else {})
            for kind in types:
                for depth in options.depths:
                    yield Figure(part, path, {"kv_type": kind, "depth": depth, **more})
        elif part == "bus":
            yield Figure(part, path, {"depth": min(options.depths), **rounds})
        elif part == "switch":
            yield Figure(part, path)
        elif part == "end":
            more = {"rounds": min(options.rounds, 10), "prompt": options.prompt}
            for depth in options.depths:
                for place in ("cuda", "cpu"):
                    yield Figure(part, path, {"attention": place, "depth": depth, **more})


def measure(figure: Figure, seconds: float) -> Iterator[Row]:
    """The rows of a figure, and one that says what went wrong, if something did."""
    failed = figure.row | {"is_met": None}
    if figure.tool and shutil.which(SANITIZER) is None:
        yield failed | {"error": f"{SANITIZER} is not installed"}
        return
    if seconds <= 0:
        yield failed | {"error": "no time was left"}
        return
    # A group of its own: a tool's process, and workers, hold the pipes until they end, too.
    with subprocess.Popen(
        figure.command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            out, told = process.communicate(timeout=seconds)
            error = (told.strip() or out.strip() or "nothing was said").splitlines()[-1]
        except subprocess.TimeoutExpired:
            end_group(process)
            out, _ = process.communicate()
            error = f"ended after {seconds:.0f} s"
        except BaseException:
            end_group(process)
            raise
    if figure.tool:
        yield failed | {"result": out[-400:], "is_met": process.returncode == 0}
        return
    yield from (json.loads(line) for line in out.splitlines() if line.startswith("{"))
    if process.returncode:
        yield failed | {"error": error}


def end_group(process: subprocess.Popen[str]) -> None:
    """End a process and all that it has started."""
    if sys.platform == "win32":
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGKILL)


def gains(rows: Sequence[Row]) -> Iterator[Row]:
    """How many times as fast steps are as with the CPU's attention, beside the goals."""
    switches = {row["model"]: row["switching_depth"] for row in rows if "switching_depth" in row}
    times = {
        (row["model"], row["depth"], row["step"], row["attention"]): row["milliseconds"]
        for row in rows
        if "milliseconds" in row
    }
    for (model, depth, step, place), milliseconds in times.items():
        other = times.get((model, depth, step, "cpu"))
        if place == "cpu" or other is None:
            continue
        gain, goal, switch = other / milliseconds, None, switches.get(model)
        if step == "decode" and switch is not None and depth >= switch:
            goal = GAIN_GOALS.get((model, depth), 1.0)
        yield {"part": "gain", "model": model, "depth": depth, "step": step, "gain": gain,
               "goal": goal, "is_met": None if goal is None else gain >= goal}  # fmt: skip


def model_paths(options: argparse.Namespace, folder: Path, report: Report) -> Iterator[str]:
    """The files to measure with; random ones are written, each when the one before is done.

    What cannot be written is told to ``report``.
    """
    if options.models:
        yield from options.models
        return
    for size in SIZES:
        print(f"writing a random {size} in {options.type}", file=sys.stderr, flush=True)
        path = folder / f"{size}.gguf"
        try:
            write_model(path, MODEL_PRESETS[size], options.type, None, 0)
        except OSError as error:
            report.add({"part": "model", "model": size, "is_met": None, "error": str(error)})
        else:
            yield str(path)
        path.unlink(missing_ok=True)


def described(card: Card, driver: Driver) -> Row:
    """The card that measured."""
    return {"part": "card", "name": card.name, "capability": card.architecture,
            "driver": version_text(driver.version), "total_bytes": card.total_bytes,
            "multiprocessors": card.num_multiprocessors, "drives_display": card.has_time_limit,
            "peak_gb_per_second": card.bytes_per_second / 1e9}  # fmt: skip


class Report:
    """All rows so far: printed, and kept in a file."""

    def __init__(self, path: Path | None) -> None:
        self.rows: list[Row] = []
        self._path = path

    def add(self, row: Row) -> None:
        """Print a row, and write the file anew."""
        self.rows.append(row)
        print(json.dumps(row), flush=True)
        if self._path:
            self._path.write_text(json.dumps(self.rows, indent=1), "utf-8")


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", metavar="FILE", help="else random ones are written")
    parser.add_argument("--parts", default=",".join(PARTS), help="which, with commas between")
    parser.add_argument("--depths", default=",".join(map(str, DEPTHS)), help="tokens before")
    parser.add_argument("--kv", default=",".join(CACHE_TYPES), help="types of keys and values")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of a step of a prompt")
    parser.add_argument("--rounds", type=int, default=20, help="of each measurement")
    parser.add_argument("--type", default="q4_0", help="of random models' weights")
    parser.add_argument("--check-tokens", type=int, default=700)
    parser.add_argument("--check-steps", type=int, default=24)
    parser.add_argument("--limit", type=float, default=120, help="seconds of a figure at most")
    parser.add_argument("--total", type=float, default=1440, help="seconds of all at most")
    parser.add_argument("--output", type=Path, help="a file for all figures as JSON")
    options = parser.parse_args(arguments)
    options.kv, options.parts = options.kv.split(","), options.parts.split(",")
    options.depths = [int(depth) for depth in options.depths.split(",")]
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line of JSON for each figure; the exit code is 1 without a card or below a goal."""
    options = parsed(arguments)
    end = time.monotonic() + options.total
    try:
        driver = Driver.load()
        card = choose_card(driver)
    except CudaError as error:
        print(f"no card, so nothing was measured: {error}", file=sys.stderr)
        return 1
    report = Report(options.output)
    report.add(described(card, driver))
    with tempfile.TemporaryDirectory() as folder:
        for number, path in enumerate(model_paths(options, Path(folder), report)):
            for figure in figures_of(path, options, is_first=number == 0):
                limit = options.total if figure.part == "ready" else options.limit
                for row in measure(figure, min(limit, end - time.monotonic())):
                    report.add(row)
    for row in gains(report.rows):
        report.add(row)
    missed = [row for row in report.rows if row.get("is_met") is False]
    failed = [row for row in report.rows if "error" in row]
    print(
        f"{len(report.rows) - 1} figures, {len(missed)} below their goal, {len(failed)} failed",
        file=sys.stderr,
    )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
