"""Measures what each type of quantization costs, beside llama.cpp's quantizer on the same file.

The source is expanded to F16 once; from that file edgellama and llama.cpp (``--peer-python``, an
interpreter with llama-cpp-python) quantize every type. Errors are those of the weights that a
type quantizes, perplexities are computed by edgellama for both, so that only the quantizers
differ. Writes a Markdown table and, with ``--plot`` (needs matplotlib), a plot.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from pydoc_data import topics

from quality import log_probabilities, open_edgellama, perplexity

from edgellama.cli.output.figures import COLOURS, new_figure, plain_ticks, run_title, save_figure
from edgellama.cli.output.plot_labels import Dot, place_labels
from edgellama.convert import convert
from edgellama.kernels_cpu.machine.cpu import select_tier
from edgellama.kernels_cpu.quantizers.row_codec import RowCodec
from edgellama.quant.gguf.file import GGUFFile, Tensor

TYPES = (
    *("q8_0", "q6_k", "q5_1", "q5_k_m", "q5_k_s", "q5_0", "q4_1", "q4_k_m", "q4_k_s", "q4_0"),
    *("iq4_nl", "iq4_xs", "q3_k_l", "q3_k_m", "q3_k_s", "q2_k"),
)
"""All that lose something."""
PEER = Path(__file__).resolve().parent / "run_llama_quantize.py"
TEXT_CHARACTERS = 40_000
CHUNK_ROWS = 256


@dataclass(frozen=True)
class Result:
    """One file: what it weighs and what it lost. ``relative_rmse`` of the quantized matrices."""

    bits_per_weight: float
    relative_rmse: float
    perplexity: float


def manual() -> str:
    """English with code: the Python manual's topics, as they come with Python."""
    return "\n\n".join(topics.topics.values())[:TEXT_CHARACTERS]


def measure(base: Path, path: Path, text: str, threads: int) -> Result:
    """Compare a quantized file with the one it was made from, and run it on ``text``."""
    with open_edgellama(path, threads) as model:
        values = log_probabilities(model, text)["values"]
    with GGUFFile(base) as first, GGUFFile(path) as second:
        squares = [
            squared_errors(first.tensors[name], tensor)
            for name, tensor in second.tensors.items()
            if len(tensor.shape) == 2
        ]
        tensors = second.tensors.values()
        num_weights = sum(math.prod(tensor.shape) for tensor in tensors)
        bits = 8 * sum(tensor.num_bytes for tensor in tensors) / num_weights
    error, total = (sum(column) for column in zip(*squares, strict=True))
    return Result(bits, (error / total) ** 0.5, perplexity(values))


def squared_errors(original: Tensor, restored: Tensor) -> tuple[float, float]:
    """Sums of squares of the difference and of the original."""
    import numpy as np

    codec = RowCodec()
    codec.prepare((), (original.format.name, restored.format.name))
    rows, columns = original.shape
    buffers = [np.empty((CHUNK_ROWS, columns), np.float32) for _ in range(2)]
    error = total = 0.0
    for start in range(0, rows, CHUNK_ROWS):
        count = min(CHUNK_ROWS, rows - start)
        first, second = (buffer[:count] for buffer in buffers)
        for tensor, buffer in ((original, first), (restored, second)):
            data = tensor.data.reshape(rows, -1)[start : start + count]
            codec.expand(data, tensor.format.name, buffer)
        sums = codec.measure(first, second)
        error += sums.squared_error
        total += sums.squared_values
    return error, total


def peer_convert(python: str, source: Path, target: Path, type_name: str, threads: int) -> None:
    """Quantize with llama.cpp."""
    command = [python, str(PEER), str(source), str(target), type_name, str(threads)]
    subprocess.run(command, check=True, capture_output=True)


def compare(options: argparse.Namespace, folder: Path) -> dict[str, dict[str, Result]]:
    """Every type by both quantizers, the source's F16 first."""
    base = folder / "base.gguf"
    convert(options.model, base, type="f16", num_threads=options.threads)
    text = options.text.read_text("utf-8") if options.text else manual()
    results = {"f16": {"edgellama": measure(base, base, text, options.threads)}}
    for type_name in options.types:
        results[type_name] = {}
        for name in ("edgellama", "llama.cpp"):
            path = folder / f"{name}-{type_name}.gguf"
            if name == "edgellama":
                convert(base, path, type=type_name, num_threads=options.threads)
            else:
                peer_convert(options.peer_python, base, path, type_name, options.threads)
            results[type_name][name] = measure(base, path, text, options.threads)
            path.unlink()
            print(type_name, name, results[type_name][name], file=sys.stderr)
    return results


def table(results: dict[str, dict[str, Result]]) -> str:
    """The results in Markdown."""
    base = results["f16"]["edgellama"].perplexity
    lines = [
        "| type | bits per weight | error of the weights | of llama.cpp's | perplexity "
        "| above F16 | against llama.cpp's file |",
        "|---|---|---|---|---|---|---|",
        f"| f16 | {results['f16']['edgellama'].bits_per_weight:.2f} | - | - | {base:.3f} | - | - |",
    ]
    for name, pair in results.items():
        if "llama.cpp" not in pair:
            continue
        own, peer = pair["edgellama"], pair["llama.cpp"]
        lines.append(
            f"| {name} | {own.bits_per_weight:.2f} | {own.relative_rmse:.3%} "
            f"| {own.relative_rmse / peer.relative_rmse:.3f}x | {own.perplexity:.3f} "
            f"| {own.perplexity / base - 1:+.2%} | {own.perplexity / peer.perplexity - 1:+.2%} |"
        )
    return "\n".join(lines)


def plot(results: dict[str, dict[str, Result]], path: Path, title: str) -> None:
    """Perplexity above F16 over bits per weight, both quantizers."""
    base = results["f16"]["edgellama"].perplexity
    figure, axes = new_figure(8.0, 5.0)
    dots: list[Dot] = []
    others: list[tuple[float, float]] = []
    markers = {"edgellama": "o", "llama.cpp": "x"}
    for (name, marker), colour in zip(markers.items(), COLOURS, strict=False):
        chosen = {kind: pair[name] for kind, pair in results.items() if name in pair}
        chosen.pop("f16", None)
        losses = [100 * (result.perplexity / base - 1) for result in chosen.values()]
        bits = [result.bits_per_weight for result in chosen.values()]
        axes.scatter(bits, losses, marker=marker, color=colour, label=name)
        if name == "edgellama":
            dots = [Dot(*dot) for dot in zip(chosen, bits, losses, strict=True)]
        else:
            others = list(zip(bits, losses, strict=True))
    axes.set_yscale("symlog", linthresh=1)
    axes.set_yticks([0, 0.5, 1, 2, 5, 10, 20, 50, 100])
    plain_ticks(axes.yaxis)
    axes.set_ylim(0, 1.4 * max(dot.y for dot in dots))
    axes.margins(x=0.08)
    axes.set_xlabel("bits per weight")
    axes.set_ylabel("perplexity above F16, % (logarithmic from 1 on)")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.suptitle(title, fontsize=10)
    place_labels(figure, axes, dots, others)
    save_figure(figure, str(path))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="GGUF file or checkpoint folder")
    parser.add_argument("--peer-python", required=True, help="interpreter with llama-cpp-python")
    parser.add_argument("--types", nargs="+", choices=TYPES, default=TYPES)
    parser.add_argument("--text", type=Path, help="default: topics of the Python manual")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures")
    parser.add_argument("--plot", type=Path, help="write a plot, .png or .svg")
    parser.add_argument("--title", help="the model's name in the plot  [default: its file's]")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        results = compare(options, Path(folder))
    print(table(results))
    if options.json:
        plain = {kind: {n: asdict(r) for n, r in pair.items()} for kind, pair in results.items()}
        options.json.write_text(json.dumps(plain, indent=1), encoding="utf-8")
    if options.plot:
        name = options.title or options.model.stem
        plot(results, options.plot, run_title(name, select_tier().name, options.threads))


if __name__ == "__main__":
    main()
