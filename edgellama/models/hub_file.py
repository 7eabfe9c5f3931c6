"""Downloads one file of the hub, continuing an earlier attempt.

The part that has arrived waits beside its final place, under a name with the file's digest. So
files of two commits are never mixed, and a file is trusted once its digest matches. ``hub`` knows
which files there are.
"""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

from edgellama.models.leftovers import remove_empty
from edgellama.quant.errors import DownloadError

PARTIAL_SUFFIX = ".partial"
DIGITS = 12
"""Of a digest that are in a partial file's name."""
HTTP_BYTES = 50 * 1000**3
"""Larger files the hub sends to its own client alone."""
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class HubFile:
    """A file of a repository at one commit; ``sha256`` is None, ``num_bytes`` 0 where unknown."""

    repository: str
    commit: str | None
    name: str
    num_bytes: int
    sha256: str | None

    def partial(self, folder: Path) -> Path | None:
        """The path of the part that has arrived; None for a file that cannot be continued."""
        if self.sha256 is None or not 0 < self.num_bytes <= HTTP_BYTES:
            return None
        return folder / f"{self.name}.{self.sha256[:DIGITS]}{PARTIAL_SUFFIX}"

    def missing_bytes(self, folder: Path) -> int:
        """How much is still to be fetched."""
        partial = self.partial(folder)
        there = partial.stat().st_size if partial is not None and partial.is_file() else 0
        return max(self.num_bytes - there, 0)


def fetch_file(
    hub: Any, file: HubFile, folder: Path, check: Callable[[], None], *, force: bool
) -> Path:
    """Fetch ``file`` below ``folder``, and return its path. DownloadError, and the client's errors.

    ``check`` is called again and again; what it raises ends the download, which can be gone on
    with. ``force`` begins it anew.
    """
    partial = file.partial(folder)
    if partial is None:
        path: str = hub.hf_hub_download(
            repo_id=file.repository,
            filename=file.name,
            revision=file.commit,
            local_dir=str(folder),
            force_download=force,
            **_quiet_bar(hub.hf_hub_download, check),
        )
        return Path(path)
    target = folder / file.name
    target.parent.mkdir(parents=True, exist_ok=True)
    _fetch_rest(hub, file, partial, check, force=force)
    if (found := _sha256(partial, check)) != file.sha256:
        partial.unlink()
        raise DownloadError(
            f"{file.name} of hf:{file.repository} has SHA-256 {found}; expected {file.sha256}; "
            "nothing was kept, run it again"
        )
    os.replace(partial, target)
    return target


def _fetch_rest(
    hub: Any, file: HubFile, partial: Path, check: Callable[[], None], *, force: bool
) -> None:
    """Fetch what ``partial`` lacks of a file, or all of it; what is empty then is removed."""
    http_get = importlib.import_module("huggingface_hub.file_download").http_get
    is_new = force or (partial.is_file() and partial.stat().st_size > file.num_bytes)
    try:
        with open(partial, "wb" if is_new else "ab") as output:
            http_get(
                hub.hf_hub_url(file.repository, file.name, revision=file.commit),
                output,
                resume_size=output.tell(),
                headers=importlib.import_module("huggingface_hub.utils").build_hf_headers(),
                expected_size=file.num_bytes,
                **_quiet_bar(http_get, check),
            )
            output.flush()
            os.fsync(output.fileno())
    finally:
        if partial.stat().st_size == 0:
            partial.unlink()
            remove_empty(partial.parent, num_parents=0)


def _quiet_bar(function: Any, check: Callable[[], None]) -> dict[str, Any]:
    """A progress bar for the client that shows nothing and asks ``check``.

    Functions of older clients take none; they show their own and finish the file.
    """
    if "tqdm_class" not in signature(function).parameters:
        return {}
    bar: Any = importlib.import_module("huggingface_hub.utils").tqdm

    class QuietBar(bar):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options | {"disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            check()
            moved: bool | None = super().update(n)
            return moved

    return {"tqdm_class": QuietBar}


def _sha256(path: Path, check: Callable[[], None]) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            check()
            digest.update(chunk)
    return digest.hexdigest()
