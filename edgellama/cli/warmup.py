"""``edgellama warmup``: compiles kernels before they are needed."""

from __future__ import annotations

import time
from collections.abc import Callable

import click


@click.command("warmup")
@click.argument("model", required=False)
def command(model: str | None) -> None:
    """Compile now what would otherwise be compiled at first use.

    Without MODEL every kernel for this CPU is compiled; with MODEL, those that it needs.

    \b
    Examples:
      edgellama warmup
      edgellama warmup smollm2
    """
    from edgellama.cli.terminal import count_progress

    started = time.monotonic()
    with count_progress("compiling kernels for this CPU (only once)") as report:
        num_kernels = _compile_for(model, report) if model else _compile_all(report)
    seconds = time.monotonic() - started
    click.echo(f"{num_kernels} kernels ready in {seconds:.1f} s")


def _compile_all(report: Callable[[int, int], None]) -> int:
    from edgellama.kernels_cpu.code_cache import load_kernels
    from edgellama.kernels_cpu.cpu import select_tier
    from edgellama.kernels_cpu.signatures import SIGNATURES

    load_kernels(SIGNATURES, select_tier(), report)
    return len(SIGNATURES)
