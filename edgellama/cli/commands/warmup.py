"""``edgellama warmup``: compiles kernels before they are needed, for this machine or for shipping.

``kernels_cpu.compiling`` compiles, ``warmup_card`` handles a graphics card's kernels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgellama.cli.commands.warmup_card import CardWarmup
from edgellama.cli.options.completion import MODEL
from edgellama.cli.options.lists import TextList

if TYPE_CHECKING:
    from edgellama.kernels_cpu.machine.cpu import Tier

ALL_TIERS = "all"


@click.command("warmup", short_help="Compile the kernels now, before they are needed.")
@click.argument("model", required=False, type=MODEL)
@click.option(
    "--kv",
    "kv_types",
    type=TextList(),
    metavar="TYPE,...",
    default="f16,q8_0",
    show_default=True,
    help="Types of the KV cache.",
)
@click.option(
    "--export",
    "folder",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Write the compiled kernels to FOLDER, for an application to ship.",
)
@click.option(
    "--tiers",
    type=TextList(),
    metavar="T,...",
    help="Instruction sets, or all.  [default: this CPU's best]",
)
def command(
    model: str | None,
    kv_types: Sequence[str],
    folder: Path | None,
    tiers: Sequence[str] | None,
) -> None:
    """Compile kernels now instead of at first use.

    With MODEL, the kernels that it needs are compiled, and those for its attention on a
    graphics card, if there is one or --export is given. Without MODEL, kernels for all
    types of weights are compiled.

    --export writes the kernels to a folder that an application can ship, so that its users
    compile nothing. The application finds it through EDGELLAMA_KERNELS or, if it is frozen,
    as edgellama-kernels beside the executable. The kernels run on every CPU with their
    instruction set; see docs/frozen.md.

    \b
    Examples:
      edgellama warmup
      edgellama warmup smollm2 --kv f16
      edgellama warmup --export kernels --tiers all
    """
    from edgellama.cli.output.terminal import kernel_progress
    from edgellama.engine.pages.kv_types import KVTypes

    pairs = [str(KVTypes.of(kind)) for kind in kv_types]
    started = time.monotonic()
    cards = CardWarmup(is_shipped=folder is not None)
    with kernel_progress() as report:
        names = _names_for(model, pairs, cards, report) if model else _all_names(pairs)
    objects = {}
    for tier in _chosen_tiers(tiers):
        objects[tier.name] = _compiled(names, tier)
    if folder is not None:
        _export(folder, objects)
        if model:
            click.echo(f"{folder}: kernels of graphics cards: {cards.export(folder)}")
    click.echo(f"kernels ready after {time.monotonic() - started:.1f} s")


def _names_for(
    model: str, kv_types: Sequence[str], cards: CardWarmup, report: Callable[[int, int], None]
) -> set[str]:
    """The kernels of one model, which an engine knows; those for cards are compiled at once."""
    from edgellama.cli.inputs.model_argument import find_model
    from edgellama.engine.engine import Engine
    from edgellama.quant.gguf.file import GGUFFile

    names: set[str] = set()
    with GGUFFile(find_model(model)) as file:
        for kv_type in kv_types:
            with Engine(file, kv_type=kv_type, progress=report) as engine:
                names |= engine.usual_kernels()
                cards.compile(engine, report)
    return names


def _all_names(kv_types: Sequence[str]) -> set[str]:
    from edgellama.engine.usual_kernels import kernels_for

    return set(kernels_for(cache_types=kv_types))


def _chosen_tiers(names: Sequence[str] | None) -> Sequence[Tier]:
    from edgellama.kernels_cpu.machine.cpu import compilable_tier, compilable_tiers, select_tier

    if not names:
        return (select_tier(),)
    if ALL_TIERS in names:
        return compilable_tiers()
    return [compilable_tier(name) for name in names]


def _compiled(names: set[str], tier: Tier) -> dict[str, bytes]:
    from edgellama.cli.output.terminal import step_progress
    from edgellama.kernels_cpu.compiling.code_cache import read_or_compile

    with step_progress(f"compiling kernels for {tier.name}") as report:
        found = read_or_compile(sorted(names), tier, report)
    return {name: kernel.content for name, kernel in found.items()}


def _export(folder: Path, objects: dict[str, dict[str, bytes]]) -> None:
    from edgellama import __version__
    from edgellama.kernels_cpu.compiling.exported_kernels import write_exported

    write_exported(folder, objects, made_by=f"edgellama {__version__}")
    num_bytes = sum(len(content) for code in objects.values() for content in code.values())
    counts = ", ".join(f"{len(code)} for {tier}" for tier, code in objects.items())
    click.echo(f"{folder}: kernels: {counts}; {num_bytes / 1e6:.1f} MB")
