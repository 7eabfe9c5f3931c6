"""Fetches GGUF files from the Hugging Face hub through ``huggingface_hub``, an optional package.

It knows how a reference picks files from a repository, and what the hub's errors mean for the user.
``names`` knows names and the cache's layout, ``hub_file`` downloads a file's bytes.
"""

from __future__ import annotations

import errno
import importlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgellama.kernels_cpu.machine.user_cache import storage_error
from edgellama.models.folder_lock import alone_in
from edgellama.models.hub_file import HubFile, fetch_file
from edgellama.models.model_files import choose_files, models_meant
from edgellama.models.progress import check_disk_space, check_wanted, watch_growth
from edgellama.quant.error_text import shown
from edgellama.quant.errors import DownloadError
from edgellama.quant.ways import Way, command_line, install_command

if TYPE_CHECKING:
    from edgellama.models.progress import Cancelled, Progress
    from edgellama.models.well_known import HubReference

ERROR_NUMBER = re.compile(r"^\[Errno -?\d+\] ")
"""How the system's number begins an error's text; people do without it."""
CHECKPOINT_SUFFIXES = (".safetensors", ".bin", ".pth")
_NETWORK = "check the network and run it again: it goes on where it stopped"
_MEANINGS: Mapping[str, str] = {
    "GatedRepoError": "its licence must be accepted first, at https://huggingface.co/{repository}; "
    "then log in with `hf auth login`, or set HF_TOKEN",
    "RepositoryNotFoundError": "the hub shows no such repository; check the name, and log in with "
    "`hf auth login` if it is private",
    "RemoteEntryNotFoundError": "the repository does not hold that file any more",
    "OfflineModeIsEnabled": "HF_HUB_OFFLINE forbids asking the hub; unset it",
}
"""By the name of the client's error, what it means."""
_ADVICE: Mapping[str, str] = {
    "ConnectError": _NETWORK,
    "RequestException": _NETWORK,
    "TimeoutException": _NETWORK,
    "TransportError": _NETWORK,
    "LocalEntryNotFoundError": _NETWORK,
}
"""The same where the error says what is wrong, but not what to do."""


def fetch_from_hub(
    reference: HubReference,
    folder: Path,
    progress: Progress | None = None,
    *,
    force: bool = False,
    cancelled: Cancelled | None = None,
) -> Path:
    """Download the file that ``reference`` means, every part of it, below ``folder``.

    Returns the path of the first part. What an earlier attempt has left is continued. Raises
    DownloadError: the extra is not installed, the hub refuses, or the reference leaves several
    files to choose from (the text lists them).
    """
    hub = _import_hub(reference)

    def check() -> None:
        check_wanted(reference, cancelled)

    try:
        found = _gguf_files(hub, reference.repository)
        files = [found[name] for name in choose_file(reference, list(found))]
        with alone_in(folder, f"downloading from hf:{reference.repository}", check):
            missing = [file for file in files if force or not (folder / file.name).is_file()]
            num_bytes = sum(
                file.num_bytes if force else file.missing_bytes(folder) for file in missing
            )
            check_disk_space(folder, num_bytes)
            with watch_growth(folder, num_bytes, progress):
                for file in missing:
                    check()
                    fetch_file(hub, file, folder, check, force=force)
    except DownloadError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise storage_error(folder, error) from error
        raise DownloadError(_explain(error, reference)) from error
    return folder / files[0].name


def choose_file(reference: HubReference, files: Sequence[str]) -> list[str]:
    """The one model that ``reference`` means among a repository's GGUF files, its parts in order.

    Raises DownloadError when none or several fit.
    """
    fitting = models_meant(reference, files)
    if len(fitting) == 1:
        return fitting[0]
    if not files:
        raise DownloadError(f"hf:{reference.repository} holds no GGUF file")
    choice = ", ".join(parts[0] for parts in choose_files(None, files))
    problem = "fits several GGUF files" if fitting else "fits no GGUF file"
    raise DownloadError(f"{reference} {problem}; name one of: {choice}")


def _gguf_files(hub: Any, repository: str) -> dict[str, HubFile]:
    """By path, all at the repository's latest commit.

    DownloadError for a repository of weights that are to be converted first, and for a path that
    leads out of it, which a mirror may send.
    """
    details = hub.HfApi().model_info(repository, files_metadata=True)
    found = {
        entry.rfilename: HubFile(
            repository,
            details.sha,
            entry.rfilename,
            entry.size or 0,
            entry.lfs.sha256 if entry.lfs else None,
        )
        for entry in details.siblings or ()
        if entry.rfilename.lower().endswith(".gguf")
    }
    for name in found:
        parts = name.split("/")
        # A backslash and a colon lead elsewhere on Windows.
        if not name.isprintable() or {*"\\:"} & {*name} or {"", ".", ".."} & {*parts}:
            raise DownloadError(
                f"hf:{repository} lists a file {shown(name)}; allowed: paths within the repository"
            )
    others = (entry.rfilename for entry in details.siblings or ())
    if not found and any(name.endswith(CHECKPOINT_SUFFIXES) for name in others):
        folder = repository.rpartition("/")[2]
        raise DownloadError(
            f"hf:{repository} holds no GGUF file, but a checkpoint",
            way=Way(
                f"huggingface_hub.snapshot_download({repository!r}, local_dir={folder!r}) fetches "
                f"it, and edgellama.convert.convert({folder!r}) converts it",
                f"run: hf download {repository} --local-dir {folder}, then: "
                f"{command_line('convert', folder)}",
            ),
        )
    return found


def _import_hub(reference: HubReference) -> Any:
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise DownloadError(
            f"{reference} is on the Hugging Face hub, which needs one more package; run: "
            + install_command("huggingface_hub")
        ) from error


def _explain(error: Exception, reference: HubReference) -> str:
    """One line for what the client has raised, or for what made it raise that."""
    names = [kind.__name__ for cause in _causes(error) for kind in type(cause).__mro__]
    for name in names:
        if name in _MEANINGS:
            meaning = _MEANINGS[name].format(repository=reference.repository)
            return f"cannot download {reference}: {meaning}"
    reason = ERROR_NUMBER.sub("", str(error)).strip().splitlines() or [type(error).__name__]
    advice = next((f"; {_ADVICE[name]}" for name in names if name in _ADVICE), "")
    return f"cannot download {reference}: {reason[0].rstrip('.')}{advice}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__
