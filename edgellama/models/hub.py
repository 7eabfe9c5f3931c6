"""Fetches GGUF files from the Hugging Face hub through ``huggingface_hub``, an optional extra.

Knows how a reference picks files from a repository and what the hub's errors mean for the
user. Leaves names and the cache's layout to ``models``; resuming is the hub client's own.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgellama.models.progress import watch_growth
from edgellama.quant.errors import DownloadError

if TYPE_CHECKING:
    from edgellama.models.names import HubReference
    from edgellama.models.progress import Progress

_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")

_HINTS: Mapping[str, str] = {
    "GatedRepoError": "accept its licence at https://huggingface.co/{repository} and log in with "
    "`hf auth login`",
    "RepositoryNotFoundError": "check the name; a private repository needs `hf auth login`",
    "LocalEntryNotFoundError": "check the network and run it again, it goes on where it stopped",
    "EntryNotFoundError": "check the file's name",
    "OfflineModeIsEnabled": "unset HF_HUB_OFFLINE",
}


def fetch_from_hub(
    reference: HubReference, folder: Path, progress: Progress | None = None, *, force: bool = False
) -> Path:
    """Downloads the file that ``reference`` means, every part of it, below ``folder``.

    Returns the path of the first part. Raises DownloadError: the extra is not installed, the
    hub refuses, or the reference leaves several files to choose from (the text lists them).
    """
    hub = _import_hub()
    try:
        sizes = _gguf_files(hub, reference.repository)
        files = choose_files(reference, list(sizes))
        folder.mkdir(parents=True, exist_ok=True)
        with watch_growth(folder, sum(sizes[file] for file in files), progress):
            paths = [
                hub.hf_hub_download(
                    repo_id=reference.repository,
                    filename=file,
                    local_dir=str(folder),
                    force_download=force,
                )
                for file in files
            ]
    except DownloadError:
        raise
    except Exception as error:
        raise DownloadError(_explain(error, reference)) from error
    return Path(paths[0])


def choose_files(reference: HubReference, files: Sequence[str]) -> list[str]:
    """The files that ``reference`` means among a repository's GGUF files, all parts in order.

    The reference's file is an exact path or any fragment of exactly one model's path, in
    either case, such as ``q4_k_m``. Raises DownloadError when none or several fit.
    """
    models = _group_parts(files)
    wanted = reference.file
    exact = [parts for parts in models.values() if wanted in parts]
    fitting = exact or [
        parts for name, parts in models.items() if (wanted or "").lower() in name.lower()
    ]
    if len(fitting) == 1:
        return fitting[0]
    if not models:
        raise DownloadError(f"hf:{reference.repository} holds no GGUF file")
    choice = ", ".join(parts[0] for parts in models.values())
    problem = "fits several GGUF files" if fitting else "fits no GGUF file"
    raise DownloadError(f"{reference} {problem}; name one of: {choice}")


def _group_parts(files: Sequence[str]) -> dict[str, list[str]]:
    models: dict[str, list[str]] = {}
    for file in sorted(files):
        models.setdefault(_PART.sub(r"-of-\2.gguf", file), []).append(file)
    return models


def _gguf_files(hub: Any, repository: str) -> dict[str, int]:
    """Sizes in bytes by path; 0 where the hub does not say."""
    details = hub.HfApi().model_info(repository, files_metadata=True)
    return {
        entry.rfilename: entry.size or 0
        for entry in details.siblings or ()
        if entry.rfilename.lower().endswith(".gguf")
    }


def _import_hub() -> Any:
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise DownloadError(
            "models from the Hugging Face hub need one more package; "
            "run: pip install 'edgellama[hub]'"
        ) from error


def _explain(error: Exception, reference: HubReference) -> str:
    reason = str(error).strip().splitlines() or [type(error).__name__]
    for kind in type(error).__mro__:
        if kind.__name__ in _HINTS:
            hint = _HINTS[kind.__name__].format(repository=reference.repository)
            return f"cannot download {reference}: {reason[0]}; {hint}"
    return f"cannot download {reference}: {reason[0]}"
