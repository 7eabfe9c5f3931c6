"""Finds the file of the model that a user named, or loads it.

It pulls a model that is missing, if that is possible, and shows the messages of loading.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgellama.cli.garbage import end_start
from edgellama.cli.output import terminal
from edgellama.models import names, usage, well_known
from edgellama.quant.errors import ModelNotFoundError
from edgellama.quant.gguf.first_key import stated_architecture
from edgellama.quant.model_config import ARCHITECTURES, CONVERTIBLE
from edgellama.quant.recipes import COPY

if TYPE_CHECKING:
    from edgellama.convert.pipeline import ConversionProgress
    from edgellama.llama import Llama

NOT_RUN_AS_IT_IS = frozenset(CONVERTIBLE).difference(ARCHITECTURES)


def find_model(name: str | None) -> Path:
    """The model's file; without a name, the starter model's.

    A model that is not there yet is pulled, after a question if somebody can answer it.
    """
    wanted = name or well_known.STARTER_MODEL
    try:
        path = names.resolve(wanted)
        usage.note_use(path)
        return path
    except ModelNotFoundError:
        if not names.can_pull(wanted):
            raise
    if terminal.is_interactive() and not click.confirm(
        f"{_title(wanted)} is not downloaded yet. Download it now?", default=True, err=True
    ):
        raise ModelNotFoundError(f"{wanted} is not downloaded", way=names.pull_it(wanted))
    return pull_with_progress(wanted)


def find_runnable(name: str | None, type_name: str | None) -> Path:
    """The file of a model that is to run: converted first where that is asked for, or needed.

    ``type_name`` asks for it. A folder with a checkpoint needs it, and a file of another
    architecture that can be written as a Llama's.
    """
    folder = None if name is None else Path(os.path.expanduser(name))
    if folder is None or not names.holds_checkpoint(folder):
        path = find_model(name)
        if type_name is None and stated_architecture(path) in NOT_RUN_AS_IT_IS:
            type_name = COPY.name
        return path if type_name is None else _convert(path, type_name)
    if type_name is None:
        try:
            return names.resolve(folder)
        except ModelNotFoundError:
            from edgellama.models.checkpoints import DEFAULT_TYPE

            type_name = DEFAULT_TYPE
    return _convert(folder, type_name)


def name_everywhere(name: str | None, path: Path) -> str | Path:
    """What other machines may know a runnable model by: its name where that is what lies at path.

    Caches of models lie where each machine's user has them.
    """
    wanted = name or well_known.STARTER_MODEL
    if Path(os.path.expanduser(wanted)).exists():
        return path
    try:
        return wanted if names.resolve(wanted) == path else path
    except ModelNotFoundError:
        return path


def _convert(source: Path, type_name: str) -> Path:
    """``source`` as a file of the cache, made now or before; a conversion shows on stderr."""
    from edgellama.cli.output.conversion_progress import conversion_progress
    from edgellama.models.checkpoints import converted

    announced = False
    with terminal.kernel_progress() as compiled, conversion_progress() as progress:

        def report(now: ConversionProgress) -> None:
            nonlocal announced
            if not announced:
                is_copy = type_name == COPY.name
                how = "as a Llama, without quantizing it again" if is_copy else f"to {type_name}"
                terminal.notice(
                    f"converting {source.name} {how}, kept for the next time "
                    "(edgellama list shows it)"
                )
                announced = True
            if progress is not None:
                progress(now)

        return converted(source, type_name, progress=report, kernel_progress=compiled)


def open_model(path: Path, **options: Any) -> Llama:
    """The model in ``path``, loaded with options of ``Llama``; what it tells shows on stderr."""
    from edgellama.llama import Llama

    with terminal.kernel_progress(of_usual=True) as report:
        llama = Llama(path, **options, progress=report, compile_usual=True)
    end_start()
    return llama


def pull_with_progress(name: str, *, force: bool = False) -> Path:
    """Pull a model, showing how far it has come on stderr."""
    with terminal.byte_progress(f"downloading {name}") as report:
        from edgellama.models import pulling

        return pulling.pull(name, progress=report, force=force)


def _title(name: str) -> str:
    """The name, with where it comes from and how much that is."""
    model = well_known.NAMED_MODELS.get(well_known.ALIASES.get(name.lower(), name))
    if model is not None:
        return f"{name} ({model.title}, {model.wheel_bytes / 1e6:.0f} MB)"
    reference = well_known.find_hub_model(name)
    return f"{name} ({reference})" if reference is not None else name
