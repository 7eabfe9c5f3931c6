"""Folders of compiled code in the user's cache: what is there is read, the rest is made once.

Which code it is, and how it is made, is left to callers: machine code of CPUs, PTX of cards.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from edgellama.kernels_cpu.machine.user_cache import cache_folders, folder_to_fill
from edgellama.quant.errors import KernelError
from edgellama.quant.progress import Progress

FOLDER_NAME = "kernels"
"""Within the cache folder."""
MONTH_SECONDS = 30 * 24 * 3600
Code = TypeVar("Code")


def read_or_make(
    names: Sequence[str],
    key: str,
    read: Callable[[Path, str], Code | None],
    make: Callable[[Sequence[str], Path, Progress], None],
    progress: Progress | None = None,
) -> Mapping[str, Code]:
    """Code by name from the folder ``key`` of the code cache.

    ``read`` takes a folder and a name, and gives None for what is not there as it must be;
    ``make`` puts what is missing into a folder, and reports each. What another thread or process
    makes meanwhile is not made again: ``progress`` hears of it in the same way. Raises KernelError
    if something is not there in the end.
    """
    if not names:
        return {}
    places = cache_folders(f"{FOLDER_NAME}/{key}")

    def found_in(folders: Iterable[Path], name: str) -> Code | None:
        codes = (read(folder, name) for folder in folders)
        return next((code for code in codes if code is not None), None)

    found = {name: found_in(places, name) for name in names}
    missing = [name for name, code in found.items() if code is None]
    if missing:
        folder = folder_to_fill(f"{FOLDER_NAME}/{key}")
        _remove_unused(folder)
        found |= _made_in_turn(missing, folder, read, make, progress or _unheard)
    complete = {name: code for name, code in found.items() if code is not None}
    if len(complete) < len(names):
        raise KernelError(f"compiled kernels could not be read back from {folder}")
    return complete


def _made_in_turn(
    names: Sequence[str],
    folder: Path,
    read: Callable[[Path, str], Code | None],
    make: Callable[[Sequence[str], Path, Progress], None],
    progress: Progress,
) -> dict[str, Code | None]:
    """Make what nobody else makes, and wait for the rest; arguments as for ``read_or_make``."""
    from edgellama.kernels_cpu.compiling.compile_turn import compile_turn

    found: dict[str, Code | None] = dict.fromkeys(names)
    num_told = -1

    def missing() -> list[str]:
        return [name for name, code in found.items() if code is None]

    def tell(num_made: int) -> None:
        nonlocal num_told
        if num_made > num_told:
            num_told = num_made
            progress(num_made, len(names))

    def look() -> bool:
        found.update({name: read(folder, name) for name in missing()})
        tell(len(names) - len(missing()))
        return bool(missing())

    with compile_turn(folder, "compiling", look):
        if look():
            left = missing()
            num_others = len(names) - len(left)
            make(left, folder, lambda done, _: tell(num_others + done))
    return found | {name: read(folder, name) for name in missing()}


def _unheard(done: int, total: int) -> None:
    """Progress that nobody asks for."""


def _remove_unused(folder: Path) -> None:
    """Drop code of earlier versions that nothing has been added to for a month."""
    import shutil

    for other in folder.parent.iterdir():
        with contextlib.suppress(OSError):  # Another process may be at the same.
            if other != folder and time.time() - other.stat().st_mtime > MONTH_SECONDS:
                shutil.rmtree(other, ignore_errors=True)
