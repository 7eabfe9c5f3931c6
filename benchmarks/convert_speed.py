"""Measures ``edgellama convert`` beside llama.cpp's quantization of the same file.

Every measurement is a fresh process; the two alternate and each round's two are compared with
each other. A file to take is Llama 3.2 1B's shape as F16: ``random_checkpoint.py`` writes the
folder, ``edgellama convert --type f16`` the file. POSIX only.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

from processes import run_undisturbed

HERE = Path(__file__).resolve().parent


@dataclass
class Samples:
    """What one program took, a value a round."""

    seconds: list[float] = field(default_factory=list)
    peak_memory_bytes: list[int] = field(default_factory=list)
    other_cpus: list[float] = field(default_factory=list)


def main() -> None:
    """Measure every type and print the table; ``--json`` keeps every single value."""
    options = read_options()
    results = {}
    print("| type | edgellama | llama.cpp | ratio | rounds from-to | peak memory |")
    print("|---|---|---|---|---|---|")
    for type_name in options.types:
        results[type_name] = measure(type_name, options)
        print(row(type_name, results[type_name]), flush=True)
    if options.json:
        plain = {
            type_name: {name: asdict(samples) for name, samples in programs.items()}
            for type_name, programs in results.items()
        }
        options.json.write_text(json.dumps(plain, indent=1) + "\n", "utf-8")


def read_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="GGUF file, F16")
    parser.add_argument("--peer-python", help="interpreter with llama-cpp-python")
    parser.add_argument("--types", nargs="+", default=["q8_0", "q4_0", "q4_k_m"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to write  [default: the source's]")
    parser.add_argument(
        "--patience",
        type=float,
        default=0,
        help="seconds that each measurement may wait, or be repeated, for a quiet machine",
    )
    parser.add_argument("--json", type=Path, help="file for every value")
    return parser.parse_args()


def measure(type_name: str, options: argparse.Namespace) -> dict[str, Samples]:
    """Samples by program; the round before the first only warms caches and compiles."""
    output = (options.folder or options.source.parent) / f"convert-speed-{type_name}.gguf"
    threads = str(options.threads)
    ours = [sys.executable, "-m", "edgellama", "convert", str(options.source), str(output)]
    commands = {"edgellama": [*ours, "--type", type_name, "--threads", threads]}
    if options.peer_python:
        script = [options.peer_python, str(HERE / "run_llama_quantize.py")]
        commands["llama.cpp"] = [*script, str(options.source), str(output), type_name, threads]
    results = {name: Samples() for name in commands}
    for round_number in range(-1, options.rounds):
        order = list(commands) if round_number % 2 else list(reversed(commands))
        for name in order:
            try:
                child = run_undisturbed(commands[name], options.patience)
            finally:
                output.unlink(missing_ok=True)
            print(f"{type_name}, {name}: {child.seconds:.2f} s", file=sys.stderr, flush=True)
            if round_number >= 0:
                results[name].seconds.append(child.seconds)
                results[name].peak_memory_bytes.append(child.peak_memory_bytes)
                results[name].other_cpus.append(child.other_cpus)
    return results


def row(type_name: str, programs: dict[str, Samples]) -> str:
    """A line of the table: medians, and edgellama's time over llama.cpp's round by round."""
    seconds = {name: f"{median(samples.seconds):.2f} s" for name, samples in programs.items()}
    peaks = [f"{max(samples.peak_memory_bytes) / 1e6:,.0f} MB" for samples in programs.values()]
    cells = [type_name, seconds["edgellama"], seconds.get("llama.cpp", "")]
    ratios = [""] * 2
    if "llama.cpp" in programs:
        pairs = zip(programs["edgellama"].seconds, programs["llama.cpp"].seconds, strict=True)
        values = sorted(ours / theirs for ours, theirs in pairs)
        ratios = [f"{median(values):.2f}x", f"{values[0]:.2f}-{values[-1]:.2f}"]
    return f"| {' | '.join([*cells, *ratios, ' / '.join(peaks)])} |"


if __name__ == "__main__":
    main()
