"""Turns the options of ``edgellama serve`` into a server's settings: models, keys, limits, aliases.

``server.settings`` checks the values before anything is opened.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgellama.cli.inputs.cluster_stages import connected_model
from edgellama.cli.options.engine_options import take_engine_arguments
from edgellama.cli.options.options import given_options

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgellama.server.settings import Limits, Opener, ServerSettings

NEVER = ("never", "-1", "forever")


def take_settings(models: tuple[str, ...], options: dict[str, Any]) -> ServerSettings:
    """The settings of a server for ``models``; what is an option's is taken out of ``options``."""
    from edgellama.server.settings import ServerSettings

    keep_alive = options.pop("keep_alive")
    file = options.pop("api_key_file")
    keys = [*options.pop("api_keys"), *(_keys(file) if file else ())]
    engine = take_engine_arguments(options)
    limits = _limits(options)
    machines, address = options.pop("machines_text"), options.pop("address")
    paths = _paths(models)
    openers = {}
    if machines is not None:
        if len(models) != 1:
            raise click.UsageError(f"--machines spreads one MODEL; {len(models)} are given")
        opener = _spread(models[0], machines, address, engine, limits)
        openers = dict.fromkeys(paths, opener)
    aliases = dict(_alias(text) for text in options.pop("aliases"))
    if keep_alive is not None:
        options["keep_alive_s"] = _seconds(keep_alive)
    return ServerSettings(
        models=paths,
        openers=openers,
        engine=engine,
        api_keys=tuple(keys),
        aliases=aliases,
        limits=limits,
        on_compile=_tell_of_kernels,
        unloads_given=keep_alive is not None,
        **given_options(options),
    )


def _tell_of_kernels(done: int, total: int) -> None:
    """Why a first start takes so long."""
    if not done:
        text = f"compiling {total} kernels for this processor, which later starts find"
        print(text, file=sys.stderr, flush=True)


def _limits(options: dict[str, Any]) -> Limits:
    from edgellama.server.settings import Limits

    names = ("parallel", "max_waiting", "max_tokens", "max_seconds", "body_bytes")
    return Limits(**given_options({name: options.pop(name) for name in names}))


def _paths(models: tuple[str, ...]) -> dict[str, Path]:
    """Files by the names that clients use."""
    from edgellama.cli.inputs.model_argument import find_runnable

    paths = {name: find_runnable(name, None) for name in models}
    return {_served_name(name, path): path for name, path in paths.items()}


def _served_name(name: str, path: Path) -> str:
    """The name as it is given, or a path's last part; ``path`` may be a file made of that."""
    from edgellama.models.model_files import first_part
    from edgellama.models.names import holds_checkpoint

    given = Path(os.path.expanduser(name))
    if not given.exists():
        return name
    if given.is_dir():
        return given.resolve().name if holds_checkpoint(given) else path.stem
    return first_part(given).stem


def _spread(
    model: str, machines: str, address: str | None, engine: Mapping[str, Any], limits: Limits
) -> Opener:
    """How a model is loaded over several machines."""
    from edgellama.server.settings import Opener

    spread = connected_model(model, machines, address, engine, num_texts=limits.parallel)
    return Opener(spread.open, spread.num_bytes)


def _keys(file: Path) -> list[str]:
    lines = (line.strip() for line in file.read_text("utf-8").splitlines())
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise click.ClickException(f"{file} holds no key; allowed: one on each line")
    return keys


def _alias(text: str) -> tuple[str, str]:
    name, equals, model = text.partition("=")
    if not (name and equals and model):
        raise click.UsageError(f"--alias is {text!r}; allowed: NAME=MODEL")
    return name, model


def _seconds(text: str) -> float:
    from edgellama.server.fields.durations import seconds

    return float("inf") if text.lower() in NEVER else seconds(text)
