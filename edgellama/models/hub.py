"""Fetches GGUF files from the Hugging Face hub through ``huggingface_hub``, an optional extra.

Knows how a reference picks files from a repository and what the hub's errors mean for the
user. Leaves names and the cache's layout to ``models``; resuming is the hub client's own.
"""

from __future__ import annotations

import errno
import importlib
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgellama.kernels_cpu.machine.user_cache import storage_error
from edgellama.models.names import choose_files
from edgellama.models.progress import check_disk_space, check_wanted, watch_growth
from edgellama.quant.errors import DownloadError

if TYPE_CHECKING:
    from edgellama.models.progress import Cancelled, Progress
    from edgellama.models.well_known import HubReference

ERROR_NUMBER = re.compile(r"^\[Errno -?\d+\] ")
"""How the system's number begins an error's text; people do without it."""
_HINTS: Mapping[str, str] = {
    "GatedRepoError": "accept its licence at https://huggingface.co/{repository} and log in with "
    "`hf auth login`",
    "RepositoryNotFoundError": "check the name; a private repository needs `hf auth login`",
    "LocalEntryNotFoundError": "check the network and run it again, it goes on where it stopped",
    "EntryNotFoundError": "check the file's name",
    "ConnectError": "check the network and run it again",
    "ConnectionError": "check the network and run it again",
    "TimeoutException": "check the network and run it again",
    "OfflineModeIsEnabled": "unset HF_HUB_OFFLINE",
}


def fetch_from_hub(
    reference: HubReference,
    folder: Path,
    progress: Progress | None = None,
    *,
    force: bool = False,
    cancelled: Cancelled | None = None,
) -> Path:
    """Downloads the file that ``reference`` means, every part of it, below ``folder``.

    Returns the path of the first part. Raises DownloadError: the extra is not installed, the
    hub refuses, or the reference leaves several files to choose from (the text lists them).
    """
    hub = _import_hub(reference)
    try:
        sizes = _gguf_files(hub, reference.repository)
        files = choose_file(reference, list(sizes))
        folder.mkdir(parents=True, exist_ok=True)
        missing = [file for file in files if force or not (folder / file).is_file()]
        check_disk_space(folder, sum(sizes[file] for file in missing))
        with watch_growth(folder, sum(sizes[file] for file in missing), progress):
            paths = []
            for file in files:
                check_wanted(reference, cancelled)
                path = hub.hf_hub_download(
                    repo_id=reference.repository,
                    filename=file,
                    local_dir=str(folder),
                    force_download=force,
                    **_stopping(hub, reference, cancelled),
                )
                paths.append(path)
    except DownloadError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise storage_error(folder, error) from error
        raise DownloadError(_explain(error, reference)) from error
    return Path(paths[0])


def _stopping(hub: Any, reference: HubReference, cancelled: Cancelled | None) -> dict[str, Any]:
    """What lets the hub's client stop within a file: a progress bar that raises.

    Older clients take none; they finish the file.
    """
    is_taken = "tqdm_class" in signature(hub.hf_hub_download).parameters
    if cancelled is None or not is_taken:
        return {}
    bar: Any = importlib.import_module("huggingface_hub.utils").tqdm

    class StoppingBar(bar):  # type: ignore[misc]
        def update(self, n: float | None = 1) -> bool | None:
            check_wanted(reference, cancelled)
            moved: bool | None = super().update(n)
            return moved

    return {"tqdm_class": StoppingBar}


def choose_file(reference: HubReference, files: Sequence[str]) -> list[str]:
    """The one model that ``reference`` means among a repository's GGUF files, its parts in order.

    Raises DownloadError when none or several fit.
    """
    fitting = choose_files(reference.file, files)
    if len(fitting) == 1:
        return fitting[0]
    if not files:
        raise DownloadError(f"hf:{reference.repository} holds no GGUF file")
    choice = ", ".join(parts[0] for parts in choose_files(None, files))
    problem = "fits several GGUF files" if fitting else "fits no GGUF file"
    raise DownloadError(f"{reference} {problem}; name one of: {choice}")


def _gguf_files(hub: Any, repository: str) -> dict[str, int]:
    """Sizes in bytes by path; 0 where the hub does not say."""
    details = hub.HfApi().model_info(repository, files_metadata=True)
    return {
        entry.rfilename: entry.size or 0
        for entry in details.siblings or ()
        if entry.rfilename.lower().endswith(".gguf")
    }


def _import_hub(reference: HubReference) -> Any:
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise DownloadError(
            f"{reference} is on the Hugging Face hub, which needs one more package; run: "
            f"{shlex.quote(sys.executable)} -m pip install huggingface_hub"
        ) from error


def _explain(error: Exception, reference: HubReference) -> str:
    reason = ERROR_NUMBER.sub("", str(error)).strip().splitlines() or [type(error).__name__]
    for kind in type(error).__mro__:
        if kind.__name__ in _HINTS:
            hint = _HINTS[kind.__name__].format(repository=reference.repository)
            return f"cannot download {reference}: {reason[0]}; {hint}"
    return f"cannot download {reference}: {reason[0]}"
