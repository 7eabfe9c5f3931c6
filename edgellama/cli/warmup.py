"""``edgellama warmup``: compiles kernels before they are needed."""

from __future__ import annotations

import time
from collections.abc import Callable

import click

from edgellama.cli.completion import MODEL

USUAL_KV_TYPE = "f16"


@click.command("warmup", short_help="Compile the kernels now, before they are needed.")
@click.argument("model", required=False, type=MODEL)
def command(model: str | None) -> None:
    """Compile now what would otherwise be compiled at first use.

    Without MODEL the kernels of all weight formats are compiled, for a KV cache of the usual type;
    with MODEL, those that it needs.

    \b
    Examples:
      edgellama warmup
      edgellama warmup smollm2
    """
    from edgellama.cli.terminal import kernel_progress

    started = time.monotonic()
    with kernel_progress() as report:
        if model:
            _compile_for(model, report)
        else:
            _compile_all(report)
    click.echo(f"kernels ready after {time.monotonic() - started:.1f} s")


def _compile_for(model: str, report: Callable[[int, int], None]) -> None:
    from edgellama.cli.model_argument import find_model

    path = find_model(model)
    from edgellama.engine.engine import Engine
    from edgellama.quant.gguf.file import GGUFFile

    with GGUFFile(path) as file, Engine(file, progress=report):
        pass


def usual_kernels() -> list[str]:
    """All that a model of any format needs with a KV cache of the usual type."""
    from edgellama.kernels_cpu.sampling.chooser import CHOICE_KERNEL
    from edgellama.kernels_cpu.signatures import CACHE_TYPES, SIGNATURES

    unusual = set(CACHE_TYPES) - {USUAL_KV_TYPE}
    names = [name for name, kernel in SIGNATURES.items() if not unusual & set(kernel.options)]
    return [*names, CHOICE_KERNEL]


def _compile_all(report: Callable[[int, int], None]) -> None:
    from edgellama.kernels_cpu.compiling.code_cache import CompiledKernels
    from edgellama.kernels_cpu.machine.cpu import select_tier

    CompiledKernels(select_tier()).ensure(usual_kernels(), report)
