"""Measures edgellama and other engines side by side; writes tables, a plot and every value.

Every measurement is a fresh process; engines alternate, and values of one round are compared with
each other, because a machine's speed drifts. Without peers edgellama runs alone. A peer is given
as COMMAND or NAME=COMMAND, models as PATH or TITLE=PATH. POSIX only.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from comparison.engine import Engine, Task
from comparison.peers import KINDS, OUR_NAME, peer_engines
from comparison.results import Comparison, ModelResults, Settings, read_comparisons
from comparison.rounds import measure
from comparison.table import markdown
from comparison.workers import edgellama
from processes import run_child

DEFAULT_DEPTHS = (0, 4096)
START_PROMPTS = ("The capital of France is", "The capital of France", "The capital of")
START_TOKENS = 5


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every model, or read what was measured, and write what was asked for."""
    options = read_options(arguments)
    try:
        check_plot(options.plot)
        if options.plot_from:
            comparison = read_comparisons(options.plot_from)
            write(comparison, options)
        else:
            for comparison in compare(options):
                # After each model, so that a long run that fails keeps what it has.
                write(comparison, options)
    except (RuntimeError, OSError) as error:
        sys.exit(f"error: {error}")
    print(markdown(comparison))


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help="GGUF files, each PATH or TITLE=PATH")
    for kind, peer in KINDS.items():
        parser.add_argument(
            f"--{kind}",
            action="append",
            default=[],
            metavar="[NAME=]COMMAND",
            help=f"{peer.help}; repeatable  [default name: {peer.default_name}]",
        )
    parser.add_argument("--tier", help="edgellama's instruction set  [default: the fastest]")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=1, help="per round, in one process")
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--decode-tokens", type=int, default=64)
    parser.add_argument(
        "--depth",
        type=int,
        action="append",
        help="tokens in the context before those that are timed; repeatable  [default: 0, 4096]",
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=0,
        help="seconds that each measurement may wait, or be repeated, for a quiet machine",
    )
    parser.add_argument("--markdown", type=Path, help="file for the tables")
    parser.add_argument("--plot", type=Path, help="file for the plot: .svg, .png or .pdf")
    parser.add_argument("--json", type=Path, help="file for every value")
    parser.add_argument(
        "--plot-from",
        type=Path,
        nargs="+",
        metavar="JSON",
        help="measure nothing: tables and plot of earlier runs",
    )
    options = parser.parse_args(arguments)
    if bool(options.models) == bool(options.plot_from):
        parser.error("give models to measure, or --plot-from")
    return options


def check_plot(path: Path | None) -> None:
    """Refuse a plot that cannot be drawn before anything is measured; RuntimeError."""
    from edgellama.cli.output import figures
    from edgellama.quant.errors import InvalidOptionError

    try:
        figures.check_plot(None if path is None else str(path))
    except InvalidOptionError as error:
        raise RuntimeError(str(error)) from error


def compare(options: argparse.Namespace) -> Iterator[Comparison]:
    """All that was measured so far, after each model."""
    try:
        settings = Settings(
            num_threads=options.threads,
            depths=tuple(options.depth or DEFAULT_DEPTHS),
            prompt_tokens=options.prompt_tokens,
            decode_tokens=options.decode_tokens,
            repeats=options.repeats,
            rounds=options.rounds,
        )
    except ValueError as error:
        raise RuntimeError(str(error)) from error
    command = [*(["env", f"EDGELLAMA_TIER={options.tier}"] if options.tier else []), sys.executable]
    named = [(kind, text) for kind in KINDS for text in getattr(options, kind.replace("-", "_"))]
    engines = [
        Engine(OUR_NAME, edgellama(command, options.patience)),
        *peer_engines(named, settings, options.patience),
    ]
    models: tuple[ModelResults, ...] = ()
    for text in options.models:
        title, path = titled_path(text)
        prompt, num_tokens = start_prompt(command, path)
        results = measure(Task(path, prompt, settings), engines, log)
        models = (*models, ModelResults(title, num_tokens, results))
        yield Comparison(settings, models)


def titled_path(text: str) -> tuple[str, Path]:
    """Title and path of ``TITLE=PATH`` or just a path."""
    title, equals, path = text.partition("=")
    if not equals or Path(text).exists():
        return Path(text).name, Path(text)
    return title, Path(path)


def start_prompt(command: Sequence[str], model: Path) -> tuple[str, int]:
    """The prompt nearest to START_TOKENS tokens, BOS included, and how many it has."""
    sizes: dict[str, int] = {}
    for text in START_PROMPTS:
        words = [*command, "-m", "edgellama", "tokenize", str(model), text, "--json"]
        sizes[text] = len(json.loads(run_child(words).output))
    prompt = min(sizes, key=lambda text: abs(sizes[text] - START_TOKENS))
    return prompt, sizes[prompt]


def log(text: str) -> None:
    """Tell how far the measurement is."""
    print(text, file=sys.stderr, flush=True)


def write(comparison: Comparison, options: argparse.Namespace) -> None:
    """The files that were asked for."""
    if options.json:
        comparison.write(options.json)
    if options.markdown:
        options.markdown.write_text(markdown(comparison) + "\n", "utf-8")
    if options.plot:
        from comparison.plot import draw

        draw(comparison, options.plot)


if __name__ == "__main__":
    main()
